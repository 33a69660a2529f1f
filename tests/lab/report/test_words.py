"""The words say what the receipt's figures justify, and nothing else."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from statistics import NormalDist

import hypothesis.strategies as st
import numpy
import pytest
from hypothesis import given, settings

from made_up import accuracy_of, latencies, machine, model
from prunus.lab.report import claims, sentences, tiles, words
from prunus.measuring.receipt import BreakEven, BreakEvenPoint, Check, Latency, ModelFacts, PairedTest, Receipt
from prunus.measuring.times import crossing

MINUS = "\N{MINUS SIGN}"


def receipt_of(*models: ModelFacts, **changes: object) -> Receipt:
    return replace(Receipt(prunus="0.1.0", torch="2.13.0", machine=machine(), models=models), **changes)


def topic(receipt: Receipt, wanted: str) -> str:
    """Return all the words on one topic."""
    return " ".join(sentence for name, sentence in sentences.paragraphs(receipt) if name == wanted)


DENSE = model("dense", 1000, 1000, macs=5000, sizes={"safetensors": 4088, "zstd": 3700})
PRUNED = model("pruned", 1000, 800, macs=5000, nonzero_macs=4100, sizes={"safetensors": 4088, "zstd": 3108})
SHRUNK = model("shrunk", 600, 600, macs=2500, sizes={"safetensors": 2488, "zstd": 2220})


def test_zeros_are_counted_and_not_called_smaller():
    said = receipt_of(DENSE, PRUNED)
    assert topic(said, "Parameters") == "200 of 1,000 parameters are now zero (20.0%)."
    assert topic(said, "File") == (
        "The file did not get smaller: 4,088 bytes before and after, because a zero is stored like any other number."
    )
    assert "with zstd it is 16.0% smaller (3,700 → 3,108 bytes)" in topic(said, "Compressed")
    assert "5,000 multiply-adds, as many as before. 18.0% of them multiply by a zero weight" in topic(
        said, "Arithmetic"
    )


def test_zeros_that_were_there_before_are_not_counted_as_new():
    before = model("dense", 1000, 950)
    assert topic(receipt_of(before, PRUNED), "Parameters") == (
        "200 of 1,000 parameters are now zero (20.0%); 50 were before."
    )
    assert topic(receipt_of(PRUNED, DENSE), "Parameters") == (
        "Nothing was removed: of 1,000 parameters, 200 were zero before and 0 are now."
    )


def test_parameters_taken_out_make_a_smaller_file_and_less_arithmetic():
    said = receipt_of(DENSE, SHRUNK)
    assert topic(said, "Parameters") == (
        "shrunk has 600 parameters, none of them zero. That is 400 fewer than dense has (40.0%)."
    )
    assert topic(said, "File") == (
        "The file is 39.1% smaller (4,088 → 2,488 bytes), because parameters were taken out of it."
    )
    assert topic(said, "Arithmetic") == "One input takes 2,500 multiply-adds instead of 5,000 (50.0% fewer)."


ROAD = tuple(
    replace(facts, name=name, bytes=facts.bytes | {"packed": packed})
    for facts, name, packed in (
        (DENSE, "dense", 3500),
        (PRUNED, "finetuned", 3000),
        (SHRUNK, "shrunk", 2000),
        (SHRUNK, "packed", 1900),
    )
)


def test_each_step_of_a_run_says_what_it_saved():
    said = receipt_of(*ROAD)
    assert topic(said, "Shrunk") == (
        "Shrinking took out 400 of 1,000 parameters (40.0%), in whole channels. That leaves 2,500 multiply-adds of one "
        "input instead of 5,000 (50.0% fewer) and 2,488 bytes of the plain file instead of 4,088 (39.1% fewer)."
    )
    assert topic(said, "Packed") == (
        "The result is one file of 1,900 bytes: 53.5% smaller than dense as a plain file (4,088) and 45.7% smaller "
        "than dense packed alike (3,500)."
    )
    assert topic(said, "Packing") == (
        "Packing changes the file only: what is computed, and how fast, stays as it was. It made 1,900 bytes of 2,488, "
        "23.6% fewer; zstd -19 makes 2,220 of it. By itself, packing makes 3,500 of dense (nothing pruned) and 3,000 "
        "of finetuned (nothing shrunk)."
    )
    assert sentences.headline(said) == (
        "40.0% of the parameters are gone; accuracy was not measured. Packed, its file is 53.5% smaller (4,088 → 1,900 "
        "bytes), and the speed was not measured."
    )


def test_a_shrink_that_found_nothing_is_said_in_words():
    dense, finetuned, _, _ = ROAD
    same = (replace(finetuned, name="shrunk"), replace(finetuned, name="packed"))
    said = receipt_of(dense, finetuned, *same)
    assert topic(said, "Shrunk") == (
        "Shrinking found nothing to remove: the 200 zeros lie scattered in channels that other weights keep alive. It "
        "saved no parameter, no multiply-add and no time."
    )
    assert topic(said, "Parameters") == "200 of 1,000 parameters are now zero (20.0%)."
    assert topic(said, "Plain file").startswith("The file did not get smaller: 4,088 bytes before and after")


def test_a_codebook_is_not_called_lossless():
    said = receipt_of(*ROAD, recipe={"pack": {"bits": 4}})
    assert topic(said, "Packing").startswith("Packing let the weights of each layer share at most 16 values")
    assert "stays as it was" not in topic(said, "Packing")


def test_times_of_a_step_are_told_in_each_runtime():
    slow, fast = Latency(100, 95, 110, 500), Latency(50, 48, 55, 500)
    times = [latencies({("1", "1"): slow}), latencies({("1", "1"): fast})]
    other = latencies({("1", "1"): slow}, "onnxruntime")
    models = [replace(facts, latency_us=times[at > 1] | other) for at, facts in enumerate(ROAD)]
    said = topic(receipt_of(*models), "Shrunk")
    assert "It made a call faster in PyTorch (100 µs → 50 µs, 1 thread, batch 1)." in said
    assert "No difference in time can be told in ONNX Runtime (100 µs → 100 µs, 1 thread, batch 1)." in said
    speed = topic(receipt_of(*models), "Speed")
    assert "In PyTorch it runs faster: 2.00 times as fast with 1 thread and batch 1 (100 µs → 50 µs)." in speed
    assert "In ONNX Runtime it does not run measurably faster" in speed


def test_zeros_are_no_reason_for_speed_in_onnx_runtime_either():
    same = {("1", "1"): Latency(100, 95, 110, 50)}
    slow = latencies(same) | latencies(same, "onnxruntime")
    said = receipt_of(replace(DENSE, latency_us=slow), replace(PRUNED, latency_us=slow))
    assert "PyTorch and ONNX Runtime multiply by the zeros like by any other number." in topic(said, "Speed")


def with_program(dense: dict[str, float], last: dict[str, float], **changes: object) -> Receipt:
    """Return a receipt of two models timed with one thread: runtime@batch -> median, known to 1%."""
    models = []
    for facts, times in ((DENSE, dense), (replace(PRUNED, name="packed"), last)):
        found: dict[str, dict[str, dict[str, Latency]]] = {}
        for key, median in times.items():
            runtime, _, batch = key.partition("@")
            found.setdefault(runtime, {"1": {}})["1"][batch] = Latency(median, median * 0.99, median * 1.01, 100)
        models.append(replace(facts, latency_us=found))
    return receipt_of(*models, **changes)


def test_a_program_is_held_against_the_fastest_that_the_dense_model_can_be_run():
    dense = {
        "torch@1": 100,
        "torch@64": 900,
        "openvino@1": 40,
        "openvino@64": 800,
        "onnxruntime@64": 600,
        "prunus@1": 99,
    }
    last = {"torch@1": 100, "torch@64": 900, "onnxruntime@64": 300, "prunus@1": 60, "prunus@64": 200}
    said = with_program(dense, last)
    assert topic(said, "Program") == (
        "As a program of prunus packed is faster than dense in its fastest runtime: 3.00 times as fast with 1 thread "
        "and batch 64 (200 µs, ONNX Runtime takes 600 µs). As a program of prunus packed is slower than dense in its "
        "fastest runtime: 1.50 times as long with 1 thread and batch 1 (60 µs, OpenVINO takes 40 µs). Beside packed "
        "itself in its fastest other runtime it takes 0.60 to 0.67 times as long."
    )
    assert sentences.headline(said).endswith(
        "and as a program of prunus it is faster in 1 of 2 settings and slower in 1 of 2 settings than dense in its "
        "fastest runtime."
    )
    # the program of the dense model is nothing that anybody would run
    assert "prunus" not in topic(said, "Speed")
    (tile,) = (tile for tile in tiles.tiles(said) if tile.label == "Time as a program")
    assert (tile.value, tile.verdict) == ("0.92\N{MULTIPLICATION SIGN}", "mixed")
    assert tile.detail == "0.33 to 1.50 times the time of dense in its fastest runtime in 2 settings"


@pytest.mark.parametrize(
    ("time", "told"),
    [
        (20, "as a program of prunus it is 2.00 times as fast as dense in its fastest runtime."),
        (80, "as a program of prunus it takes 2.00 times as long as dense in its fastest runtime."),
        (40, "as a program of prunus it is not measurably faster than dense in its fastest runtime."),
    ],
)
def test_the_headline_is_about_the_program_where_there_is_one(time: float, told: str):
    said = with_program({"torch@1": 100, "openvino@1": 40}, {"torch@1": 50, "prunus@1": time})
    assert sentences.headline(said).endswith(told)


def test_many_runtimes_are_summed_up():
    names = ("torch", "torch-compile", "onnxruntime", "openvino")
    dense = {f"{name}@{batch}": 100.0 for name in names for batch in (1, 64)}
    last = dense | {"openvino@1": 50.0, "torch-compile@1": 200.0, "torch-compile@64": 80.0, "torch@1": 101.0}
    said = topic(with_program(dense, last), "Speed")
    assert said.startswith(
        "In torch.compile it runs faster in 1 of 2 settings and slower in 1 of 2 settings: it takes 0.80 to 2.00 times "
        "as long as before. In OpenVINO it runs faster in 1 of 2 settings: it takes 0.50 to 1.00 times as long as "
        "before. In PyTorch and ONNX Runtime it does not run measurably faster: in 4 settings it takes 1.00 to 1.01 "
    )


def test_a_program_without_anything_to_stand_beside_claims_nothing():
    said = with_program({"torch@64": 100}, {"prunus@1": 10})
    assert topic(said, "Program") == ""
    assert sentences.headline(said).endswith("the speed was not measured.")


def curve_of(*times: tuple[float, float], **changes: object) -> BreakEven:
    found = tuple(BreakEvenPoint(s, 1000, Latency(t, t, t, 9)) for s, t in times)
    dense = {"torch": Latency(900, 900, 900, 9), "openvino": Latency(400, 400, 400, 9)}
    return BreakEven(1, 64, dense, found, crossing([s for s, _ in times], [t / 400 for _, t in times]), **changes)


def test_the_break_even_is_told_with_what_it_is_held_against():
    start = "With 1 thread and batch 64, programs of copies pruned by magnitude at once and not trained "
    against = "as fast as the dense model in OpenVINO, the fastest of PyTorch and OpenVINO"
    found = receipt_of(DENSE, PRUNED, break_even=curve_of((0.0, 800), (0.5, 500), (0.9, 100)))
    assert topic(found, "Break-even") == (
        f"{start}are {against}, from 60% sparsity on; at 90% they take 0.25 times as long."
    )
    never = receipt_of(DENSE, PRUNED, break_even=curve_of((0.0, 800), (0.5, 500)))
    assert topic(never, "Break-even") == f"{start}never become {against}: at 50% they take 1.25 times as long."
    always = receipt_of(DENSE, PRUNED, break_even=curve_of((0.0, 300), (0.9, 100)))
    assert topic(always, "Break-even") == (
        f"{start}are faster than the dense model in OpenVINO, the fastest of PyTorch and OpenVINO, at every sparsity: "
        "at 0% sparsity they take 0.75 times as long, at 90% they take 0.25 times as long."
    )
    noted = receipt_of(DENSE, PRUNED, break_even=curve_of((0.0, 800), notes=("sparsity 0.98 and above: too much",)))
    assert topic(noted, "Note") == "the break-even curve: sparsity 0.98 and above: too much."


def test_models_that_no_image_tells_apart_are_said_to_be_alike():
    tested = [replace(facts, accuracy=accuracy_of(900, 1000)) for facts in ROAD]
    alike = PairedTest("finetuned", "shrunk", 0, 0, 0.0, (-0.001, 0.001), 1.0)
    said = receipt_of(*tested, comparisons=(alike,))
    assert topic(said, "On the way").endswith("shrunk gets the same test images right as finetuned.")


def test_what_is_gone_and_what_is_zero_are_told_apart_in_the_headline():
    last = model("packed", 900, 700)
    assert sentences.headline(receipt_of(DENSE, last)).startswith(
        "10.0% of the parameters are gone, another 20.0% are zero;"
    )


def test_a_larger_file_and_more_parameters_are_said():
    masked = model("masked", 2000, 1800, sizes={"safetensors": 8200})
    said = receipt_of(DENSE, masked)
    assert "1,000 more than dense has (100.0%)" in topic(said, "Parameters")
    assert topic(said, "File") == "The file is 100.6% larger (4,088 → 8,200 bytes)."


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            (100, 95, 110),
            (98, 93, 108),
            "It does not run measurably faster: with 1 thread and batch 1 it takes 0.98",
        ),
        (
            (100, 95, 110),
            (50, 48, 55),
            "It runs faster: 2.00 times as fast with 1 thread and batch 1 (100 µs → 50 µs).",
        ),
        ((100, 95, 110), (150, 140, 165), "It runs slower: 1.50 times as long with 1 thread and batch 1"),
        ((100, 99.9, 100.1), (99, 98.9, 99.1), "It does not run measurably faster"),  # apart, but by 1%
    ],
)
def test_speed_is_told_only_where_the_medians_are_apart(before, after, expected):
    first = replace(SHRUNK, name="first", latency_us=latencies({("1", "1"): Latency(*before, 50)}))
    last = replace(PRUNED, name="last", latency_us=latencies({("1", "1"): Latency(*after, 50)}))
    assert topic(receipt_of(first, last), "Speed").startswith(expected)


def timed(*times: Latency) -> Receipt:
    """Return a receipt of a model and one with half the arithmetic, timed in one setting."""
    first, last = (
        replace(facts, latency_us=latencies({("1", "1"): t})) for facts, t in zip((DENSE, SHRUNK), times, strict=True)
    )
    return receipt_of(first, last)


def test_many_runs_tell_medians_apart_though_single_calls_overlap():
    few, many = (timed(Latency(100, 90, 125, runs), Latency(90, 81, 112, runs)) for runs in (10, 4000))
    assert topic(few, "Speed").startswith("It does not run measurably faster")
    assert topic(many, "Speed").startswith("It runs faster: 1.11 times as fast")
    assert "within the uncertainty of the medians (their 95% intervals overlap), or less than 2%" in topic(few, "Speed")
    assert sentences.headline(many).endswith("and the model is faster.")


def test_less_than_two_percent_is_no_difference_however_many_runs():
    close = timed(Latency(100, 97, 106, 10**6), Latency(98.1, 95, 104, 10**6))
    assert topic(close, "Speed").startswith("It does not run measurably faster")


def test_the_interval_of_a_median_holds_the_true_one_in_95_of_100_tries():
    samples = numpy.random.default_rng(0).normal(100, 5, (2000, 301))
    found = [Latency(p50, p10, p90, 301) for p10, p50, p90 in numpy.percentile(samples, [10, 50, 90], axis=1).T]
    inside = [low <= 100 <= high for low, high in map(claims.median_interval, found)]
    assert 0.935 <= sum(inside) / len(inside) <= 0.965


def test_a_difference_found_on_an_unsteady_machine_is_told_with_caution():
    unsteady = timed(Latency(100, 80, 160, 4000), Latency(50, 40, 80, 4000))
    assert "It runs faster: 2.00 times as fast" in topic(unsteady, "Speed")
    assert "Single calls varied up to 2.00-fold" in topic(unsteady, "Speed")
    assert sentences.headline(unsteady).endswith("and the model is faster, though single calls varied widely.")
    (tile,) = (tile for tile in tiles.tiles(unsteady) if tile.label == "Time of a call")
    assert (tile.verdict, tile.tone) == ("saved", "plain")
    assert tile.detail.endswith("; single calls varied widely")
    assert "varied" not in topic(timed(Latency(100, 95, 110, 50), Latency(50, 48, 55, 50)), "Speed")


def test_a_difference_that_only_the_machine_explains_is_not_called_one():
    times = Latency(100, 80, 160, 4000), Latency(50, 40, 80, 4000)
    first, last = (
        replace(facts, latency_us=latencies({("1", "1"): time}))
        for facts, time in zip((DENSE, PRUNED), times, strict=True)
    )
    noisy = receipt_of(first, last)
    assert sentences.headline(noisy).endswith("and no difference in speed could be measured reliably.")
    (tile,) = (tile for tile in tiles.tiles(noisy) if tile.label == "Time of a call")
    assert (tile.verdict, tile.tone) == ("unclear", "plain")


def test_zeros_are_given_as_the_reason_only_where_they_are_all_that_changed():
    slow, reason = latencies({("1", "1"): Latency(100, 95, 110, 50)}), "PyTorch multiplies by the zeros"
    dense, pruned, shrunk = (replace(facts, latency_us=slow) for facts in (DENSE, PRUNED, SHRUNK))
    assert reason in topic(receipt_of(dense, pruned), "Speed")
    assert reason not in topic(receipt_of(dense, shrunk), "Speed")
    assert "It does need 50.0% fewer multiply-adds" in topic(receipt_of(dense, shrunk), "Speed")


def test_a_gain_in_speed_without_less_arithmetic_is_doubted():
    first = replace(DENSE, latency_us=latencies({("1", "1"): Latency(100, 95, 110, 50)}))
    last = replace(PRUNED, latency_us=latencies({("1", "1"): Latency(50, 48, 55, 50)}))
    assert "measure again before relying on it" in topic(receipt_of(first, last), "Speed")
    fewer = replace(SHRUNK, latency_us=last.latency_us)
    assert "measure again" not in topic(receipt_of(first, fewer), "Speed")


def test_settings_that_differ_are_told_apart():
    same, slow = Latency(100, 95, 110, 50), Latency(200, 190, 220, 50)
    first = replace(DENSE, latency_us=latencies({("1", "1"): same, ("1", "64"): slow}))
    last = replace(SHRUNK, latency_us=latencies({("1", "1"): same, ("1", "64"): same}))
    said = topic(receipt_of(first, last), "Speed")
    assert "It runs faster: 2.00 times as fast with 1 thread and batch 64" in said
    assert "Elsewhere no difference can be told: with 1 thread and batch 1" in said
    assert sentences.headline(receipt_of(first, last)).endswith("and the model is faster in 1 of 2 settings.")


def test_a_busy_machine_is_said():
    wild = latencies({("1", "1"): Latency(100, 90, 900, 50)})
    said = topic(receipt_of(replace(DENSE, latency_us=wild), replace(PRUNED, latency_us=wild)), "Speed")
    assert "Single calls varied up to 10-fold" in said


def test_what_was_not_measured_is_not_claimed():
    said = receipt_of(model("dense", 10, 10), model("pruned", 10, 8))
    assert topic(said, "Speed") == "Speed was not measured in both models, so nothing can be said about it."
    assert topic(said, "File") == "The size of the file was not measured in both models."
    assert topic(said, "Accuracy") == "Accuracy was not measured in both models."
    assert topic(said, "Arithmetic") == "Multiply-adds were not counted in both models."
    assert sentences.headline(said) == (
        "20.0% of the parameters are zero; accuracy was not measured. "
        "The size of the file was not measured, and the speed was not measured."
    )


def with_accuracies(correct: tuple[int, int], total: int, p_value: float, **changes: object) -> Receipt:
    first = replace(DENSE, accuracy=accuracy_of(correct[0], total))
    last = replace(PRUNED, accuracy=accuracy_of(correct[1], total))
    difference = (correct[1] - correct[0]) / total
    apart = (max(0, correct[0] - correct[1]) + 3, max(0, correct[1] - correct[0]) + 3)
    test = PairedTest("dense", "pruned", *apart, difference, (difference - 0.002, difference + 0.002), p_value)
    return receipt_of(first, last, comparisons=(test,), **changes)


def test_a_difference_within_chance_leaves_a_loss_open():
    assert topic(with_accuracies((9921, 9925), 10_000, 0.61), "Accuracy") == (
        "99.21% [99.02, 99.37] → 99.25% [99.06, 99.40] on 10,000 test images (in brackets: 95% intervals). "
        f"The difference is +0.04 points [{MINUS}0.16, +0.24], which can't be told from chance "
        "(paired test, p = 0.61). "
        "A loss of up to 0.16 points would fit these figures too."
    )


def test_a_loss_beyond_chance_is_said():
    said = with_accuracies((9921, 9800), 10_000, 1e-9)
    expected = f"{MINUS}1.21 points [{MINUS}1.41, {MINUS}1.01], which is more than chance (paired test, p < 0.001)"
    assert expected in topic(said, "Accuracy")
    assert "accuracy is worse by 1.21 points" in sentences.headline(said)


def test_a_gain_names_the_extra_training_where_there_was_some():
    doubt = "was also trained for 3 epochs more than dense, which can be the reason"
    recipe = {"finetune": {"epochs": 3}}
    assert doubt in topic(with_accuracies((9000, 9500), 10_000, 1e-9, recipe=recipe), "Accuracy")
    assert doubt not in topic(with_accuracies((9000, 9500), 10_000, 1e-9), "Accuracy")
    gradual = {"prune": {"training": {"epochs": 2}}, "finetune": {"epochs": 1}}
    assert doubt in topic(with_accuracies((9000, 9500), 10_000, 1e-9, recipe=gradual), "Accuracy")
    only_gradual = {"prune": {"training": {"epochs": 3}}, "finetune": None}
    assert doubt in topic(with_accuracies((9000, 9500), 10_000, 1e-9, recipe=only_gradual), "Accuracy")
    one_shot = {"prune": {"training": None}, "finetune": {"epochs": 3}}
    assert doubt in topic(with_accuracies((9000, 9500), 10_000, 1e-9, recipe=one_shot), "Accuracy")
    assert doubt not in topic(with_accuracies((9500, 9000), 10_000, 1e-9, recipe=recipe), "Accuracy")


def test_few_images_are_said():
    assert "One test image weighs 0.50 points here." in topic(with_accuracies((190, 191), 200, 0.9), "Accuracy")
    assert "One test image weighs" not in topic(with_accuracies((9921, 9925), 10_000, 0.61), "Accuracy")


def test_without_a_paired_test_only_the_intervals_are_compared():
    near = receipt_of(replace(DENSE, accuracy=accuracy_of(990, 1000)), replace(PRUNED, accuracy=accuracy_of(985, 1000)))
    far = receipt_of(replace(DENSE, accuracy=accuracy_of(990, 1000)), replace(PRUNED, accuracy=accuracy_of(900, 1000)))
    assert f"{MINUS}0.50 points (no paired test was made; the 95% intervals overlap)" in topic(near, "Accuracy")
    assert "accuracy did not measurably change" in sentences.headline(near)
    assert "the 95% intervals lie apart" in topic(far, "Accuracy")
    assert "accuracy is worse by 9.00 points" in sentences.headline(far)


def test_a_paired_test_is_read_in_either_direction():
    forward = with_accuracies((9921, 9800), 10_000, 0.001)
    test = forward.comparisons[0]
    low, high = test.ci95
    backward = replace(
        test,
        first="pruned",
        second="dense",
        only_first=test.only_second,
        only_second=test.only_first,
        difference=-test.difference,
        ci95=(-high, -low),
    )
    assert words(replace(forward, comparisons=(backward,))) == words(forward)


@pytest.mark.parametrize(
    ("correct", "p_value", "meaning"),
    [
        (9800, 1e-6, "pruned does better than this control."),
        (9924, 0.9, "these images can't tell the two apart."),
        (9990, 1e-6, "the control does better than pruned."),
    ],
)
def test_controls_are_judged_against_the_result(correct, p_value, meaning):
    control = model("random", 1000, 800, accuracy=accuracy_of(correct, 10_000))
    result = replace(PRUNED, accuracy=accuracy_of(9925, 10_000))
    gap = (correct - 9925) / 10_000
    counts = (max(0, 9925 - correct), max(0, correct - 9925))
    test = PairedTest("pruned", "random", *counts, gap, (gap - 0.001, gap + 0.001), p_value)
    said = receipt_of(DENSE, result, controls=(control,), comparisons=(test,))
    assert topic(said, "Control").startswith("random (800 of 1,000 parameters nonzero) reaches")
    assert topic(said, "Control").endswith(meaning)


def test_a_failed_check_is_named_with_its_figures():
    passed, failed = Check("keys", "keys changed", 0, 0, True), Check("zeros", "zeros lost", 3, 0, False)
    assert topic(receipt_of(DENSE, PRUNED, checks=(passed,)), "Checks") == "Every check passed: keys."
    assert topic(receipt_of(DENSE, PRUNED, checks=(passed, failed)), "Checks") == (
        "1 of 2 checks failed: zeros (zeros lost: 3, limit 0)."
    )


def test_notes_of_the_measurement_are_passed_on():
    noted = [replace(facts, notes=("zstd is not installed",)) for facts in (DENSE, PRUNED)]
    assert topic(receipt_of(*noted), "Note") == "dense and pruned: zstd is not installed."


def test_what_was_not_counted_is_said_of_every_model():
    models = [replace(facts, uncounted=("aten::fft", "aten::sort")) for facts in (DENSE, PRUNED)]
    control = model("random", 1000, 800, macs=5000, uncounted=("aten::fft",))
    said = topic(receipt_of(*models, controls=(control,)), "Note")
    assert "dense and pruned: not counted among the multiply-adds: aten::fft and aten::sort." in said
    assert "random: not counted among the multiply-adds: aten::fft." in said
    assert "not counted among the multiply-adds" in topic(receipt_of(models[0]), "Note")


def test_one_model_alone_claims_no_saving():
    alone = replace(PRUNED, accuracy=accuracy_of(95, 100))
    assert words(receipt_of(alone)) == [
        "pruned has 1,000 parameters; 200 of them are zero (20.0%).",
        "It takes 4,088 bytes as safetensors and 3,108 bytes as zstd.",
        "Its accuracy is 95.00% [88.82, 97.85] on 100 test images.",
        "Only one model was measured, so this says nothing about what pruning saves.",
    ]
    assert words(receipt_of()) == ["This receipt holds no model."]


counts = st.integers(0, 10**7)
times = st.tuples(*[st.floats(0.01, 1e7)] * 3).map(sorted).map(lambda t: Latency(t[1], t[0], t[2], 9))


@st.composite
def any_model(draw: st.DrawFn, name: str) -> ModelFacts:
    parameters, macs = draw(counts), draw(st.none() | counts)
    total = draw(st.integers(1, 10_000))
    return model(
        name,
        parameters,
        draw(st.integers(0, parameters)),
        macs=macs,
        nonzero_macs=None if macs is None else draw(st.integers(0, macs)),
        sizes=draw(st.dictionaries(st.sampled_from(["safetensors", "gzip", "zstd", "packed"]), counts)),
        latency_us=draw(
            st.sampled_from(["torch", "compiled", "prunus"]).flatmap(
                lambda runtime: st.dictionaries(
                    st.tuples(st.sampled_from("12"), st.sampled_from(["1", "64"])), times
                ).map(lambda found: latencies(found, runtime))
            )
        ),
        accuracy=draw(st.none() | st.integers(0, total).map(lambda correct: accuracy_of(correct, total))),
    )


def surely_less(fast: Latency, slow: Latency) -> bool:
    """Whether a median lies more than both half-widths below another, by the normal approximation."""
    normal = NormalDist()
    deviations = [(time.p90 - time.p10) / (2 * normal.inv_cdf(0.9)) for time in (fast, slow)]
    errors = [math.sqrt(math.pi / 2) * d / math.sqrt(t.runs) for d, t in zip(deviations, (fast, slow), strict=True)]
    return slow.median - fast.median > 0.999 * normal.inv_cdf(0.975) * sum(errors)  # constants there are rounded


@settings(deadline=None, max_examples=150)
@given(
    models=st.one_of(
        st.tuples(any_model("dense"), any_model("pruned")),
        st.tuples(*map(any_model, ("dense", "finetuned", "shrunk", "packed"))),
    ),
    control=any_model("random"),
)
def test_any_receipt_is_put_into_words_that_its_figures_bear_out(models, control):
    first, last = models[0], models[-1]
    receipt = receipt_of(*models, controls=(control,))
    said = {name: topic(receipt, name) for name, _ in sentences.paragraphs(receipt)}
    whole = " ".join(said.values()) + sentences.headline(receipt)
    assert not re.search(r"\b(None|nan|inf)\b", whole)
    assert all(re.search(r"[.]$", sentence) for sentence in words(receipt))
    before, after = (facts.bytes.get("safetensors") for facts in (first, last))
    file = said.get("File") or said["Plain file"]
    assert ("% smaller" in file) <= (before is not None and after is not None and after < before)
    assert ("% larger" in file) <= (before is not None and after is not None and after > before)
    if "Shrinking took out" in said.get("Shrunk", ""):
        assert models[2].parameters < models[1].parameters
    pairs = [
        (was, now)
        for runtime, threads, batch, now in claims.settings(last)
        if (was := claims.latency(first, runtime, threads, batch))
    ]
    assert ("It runs faster" in said["Speed"]) <= any(surely_less(now, was) for was, now in pairs)
    assert ("It runs slower" in said["Speed"]) <= any(surely_less(was, now) for was, now in pairs)
    assert ("fewer" in said["Parameters"]) == (last.parameters < first.parameters)
    if "now zero" in said["Parameters"]:
        assert said["Parameters"].startswith(f"{last.parameters - last.nonzero:,} of {last.parameters:,} parameter")
