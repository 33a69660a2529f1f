"""Verdicts, headline, key figures and caveats say what the receipt's figures justify, and nothing else."""

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
from prunus.lab.report import claims, figures_time, receipt_tables
from prunus.lab.report.caveats import caveats
from prunus.lab.report.outcome import Outcome, headline, outcomes
from prunus.measuring.receipt import BreakEven, BreakEvenPoint, Check, Latency, ModelFacts, PairedTest, Receipt
from prunus.measuring.times import crossing
from prunus.tables import Table

MINUS = "\N{MINUS SIGN}"


def receipt_of(*models: ModelFacts, **changes: object) -> Receipt:
    return replace(Receipt(prunus="0.1.0", torch="2.13.0", machine=machine(), models=models), **changes)


def key_figure(receipt: Receipt, label: str) -> Outcome:
    (outcome,) = (outcome for outcome in outcomes(receipt) if outcome.label == label)
    return outcome


def on(receipt: Receipt, topic: str) -> str:
    """Return all caveats on one topic."""
    return " ".join(sentence for name, sentence in caveats(receipt) if name == topic)


def speed_rows(receipt: Receipt) -> list[tuple[str, ...]]:
    table = receipt_tables.speed(receipt)
    assert isinstance(table, Table)
    return list(table.rows)


DENSE = model("dense", 1000, 1000, macs=5000, sizes={"safetensors": 4088, "zstd": 3700})
PRUNED = model("pruned", 1000, 800, macs=5000, nonzero_macs=4100, sizes={"safetensors": 4088, "zstd": 3108})
SHRUNK = model("shrunk", 600, 600, macs=2500, sizes={"safetensors": 2488, "zstd": 2220})


def test_zeros_are_counted_and_not_called_smaller():
    said = receipt_of(DENSE, PRUNED)
    assert key_figure(said, "Zero parameters").detail == "200 of 1,000"
    file = key_figure(said, "File")
    assert (file.value, file.detail, file.verdict) == ("±0%", "4,088 → 4,088 bytes", "not saved")
    assert key_figure(said, "Compressed").detail == "3,700 → 3,108 bytes with zstd"
    assert key_figure(said, "Multiply-adds").detail == "as many as before; 18.0% of them times a zero"
    assert "A zero is stored and multiplied like any other number" in on(said, "Zeros")


def test_zeros_that_were_there_before_are_not_counted_as_new():
    assert key_figure(receipt_of(model("dense", 1000, 950), PRUNED), "Zero parameters").verdict == "set to zero"
    assert key_figure(receipt_of(PRUNED, DENSE), "Zero parameters").verdict == "nothing removed"


def test_parameters_taken_out_make_a_smaller_file_and_less_arithmetic():
    said = receipt_of(DENSE, SHRUNK)
    gone = key_figure(said, "Parameters gone")
    assert (gone.value, gone.detail) == ("40.0%", "1,000 → 600")
    assert key_figure(said, "File").value == f"{MINUS}39.1%"
    assert key_figure(said, "Multiply-adds").detail == "5 k before"
    assert on(said, "Zeros") == ""


ROAD = tuple(
    replace(facts, name=name, bytes=facts.bytes | {"packed": packed})
    for facts, name, packed in (
        (DENSE, "dense", 3500),
        (PRUNED, "finetuned", 3000),
        (SHRUNK, "shrunk", 2000),
        (SHRUNK, "packed", 1900),
    )
)


def test_the_headline_of_a_run_is_about_its_packed_file():
    said = receipt_of(*ROAD)
    assert headline(said) == (
        "40.0% of the parameters are gone; accuracy was not measured. Packed, its file is 53.5% smaller (4,088 → 1,900 "
        "bytes), and the speed was not measured."
    )
    assert key_figure(said, "Packed file").detail == "4,088 → 1,900 bytes; dense packed alike: 3,500"


def test_a_shrink_that_removed_nothing_is_said():
    dense, finetuned, _, _ = ROAD
    same = (replace(finetuned, name="shrunk"), replace(finetuned, name="packed"))
    said = "Shrinking found nothing to remove: the 200 zeros lie scattered in channels that other weights keep alive."
    assert said in on(receipt_of(dense, finetuned, *same), "Zeros")
    assert "Shrinking" not in on(receipt_of(*ROAD), "Zeros")


def test_a_codebook_is_not_called_lossless():
    said = on(receipt_of(*ROAD, recipe={"pack": {"codebook_bits": 4}}), "Zeros")
    assert said == "Packing let the weights of each layer share at most 16 values, so the model computes others."


def with_program(dense: dict[str, float], last: dict[str, float], **changes: object) -> Receipt:
    """Return a receipt of two models timed with one thread: runtime@batch -> median, known to 1%."""
    models = []
    for facts, times in ((DENSE, dense), (replace(PRUNED, name="packed"), last)):
        by_runtime: dict[str, dict[str, dict[str, Latency]]] = {}
        for key, median in times.items():
            runtime, _, batch = key.partition("@")
            measured = Latency(median, median * 0.99, median * 1.01, 100)
            by_runtime.setdefault(runtime, {"1": {}})["1"][batch] = measured
        models.append(replace(facts, latency_us=by_runtime))
    return receipt_of(*models, **changes)


def test_a_program_is_held_against_what_is_fastest_without_it():
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
    rows = speed_rows(said)
    assert rows[-2:] == [
        ("prunus", "1 thread, batch 1", "40 µs in OpenVINO", "60 µs", "1.50", "slower"),
        ("prunus", "1 thread, batch 64", "300 µs of packed in ONNX Runtime", "200 µs", "0.67", "faster"),
    ]
    # the program of the dense model is nothing that anybody would run
    assert [row[0] for row in rows[:-2]] == ["PyTorch", "PyTorch", "ONNX Runtime"]
    assert headline(said).endswith(
        "and as a program of prunus it is faster in 1 of 2 settings and slower in 1 of 2 settings than what is fastest "
        "without it, dense in OpenVINO and packed in ONNX Runtime."
    )
    time = key_figure(said, "Time as a program")
    assert (time.value, time.verdict) == ("1.08\N{MULTIPLICATION SIGN}", "mixed")
    assert time.detail == (
        "0.67 to 1.50 times the time of what is fastest without it, dense in OpenVINO and packed in ONNX Runtime in 2 "
        "settings"
    )


@pytest.mark.parametrize(
    ("time", "phrase"),
    [
        (20, "as a program of prunus it is 2.00 times as fast as dense in OpenVINO int8."),
        (80, "as a program of prunus it takes 2.00 times as long as dense in OpenVINO int8."),
        (40, "as a program of prunus it is not measurably faster than dense in OpenVINO int8."),
    ],
)
def test_the_headline_is_about_the_program_where_there_is_one(time: float, phrase: str):
    said = with_program({"torch@1": 100, "openvino-int8@1": 40}, {"torch@1": 50, "prunus@1": time})
    assert headline(said).endswith(phrase)
    missing = "torch.compile, ONNX Runtime, ONNX Runtime int8 and OpenVINO"
    assert f"dense was not timed in {missing}, so nothing is said about being faster than there." in on(said, "Speed")


@pytest.mark.parametrize(
    ("accurate", "phrase"),
    [
        (9900, "as a program of prunus in 8 bits it is 2.50 times as fast as quantized in OpenVINO int8."),
        (9000, "as a program of prunus it is 1.67 times as fast as dense in OpenVINO int8."),
    ],
)
def test_8_bits_count_where_they_are_as_accurate(accurate: int, phrase: str):
    said = with_program({"openvino-int8@1": 50}, {"prunus@1": 30, "prunus-int8@1": 5})
    dense, packed = (replace(each, accuracy=accuracy_of(9900, 10_000)) for each in said.models)
    times = {"openvino-int8": 25, "prunus-int8": 10}
    latencies = {name: {"1": {"1": Latency(time, time * 0.99, time * 1.01, 100)}} for name, time in times.items()}
    in_8_bits = replace(SHRUNK, name="quantized", accuracy=accuracy_of(accurate, 10_000), latency_us=latencies)
    assert headline(receipt_of(dense, in_8_bits, packed)).endswith(phrase)


def test_a_program_without_anything_to_stand_beside_claims_nothing():
    said = with_program({"torch@64": 100}, {"prunus@1": 10})
    assert receipt_tables.speed(said) is None
    assert headline(said).endswith("the speed was not measured.")


def points_of(*times: tuple[float, float]) -> tuple[tuple[BreakEvenPoint, ...], float | None]:
    points = tuple(BreakEvenPoint(s, 1000, Latency(t, t, t, 9)) for s, t in times)
    return points, crossing([s for s, _ in times], [t / 400 for _, t in times])


def curve_of(*times: tuple[float, float], **changes: object) -> BreakEven:
    dense = {"torch": Latency(900, 900, 900, 9), "openvino": Latency(400, 400, 400, 9)}
    return BreakEven(1, 64, dense, *points_of(*times), **changes)


@pytest.mark.parametrize(
    ("times", "pays"),
    [
        (((0.0, 800), (0.5, 500), (0.9, 100)), "as fast from 60% sparsity on"),
        (((0.0, 800), (0.5, 500)), "never as fast"),
        (((0.0, 300), (0.9, 100)), "as fast from 0% sparsity on"),
    ],
)
def test_the_break_even_is_told_with_what_it_is_held_against(times, pays):
    table = receipt_tables.break_even(receipt_of(DENSE, PRUNED, break_even=curve_of(*times)))
    assert table is not None
    said = (
        f"with 1 thread, batch 64: in float32, single weights: {pays}. The dense model: PyTorch 900 [900, 900] µs and"
    )
    assert said in table.caption
    assert table.columns[-1] == "times as long as dense in OpenVINO"
    assert table.rows[0] == (
        "float32, single weights",
        "0%",
        "1,000",
        f"{times[0][1]} [{times[0][1]}, {times[0][1]}] µs",
        f"{times[0][1] / 400:.2f}",
    )


def test_the_break_even_of_both_programs_is_told():
    points, sparsity = points_of((0.0, 600), (0.8, 200))
    curve = curve_of((0.0, 800), (0.9, 500), in_8_bits=points, sparsity_in_8_bits=sparsity)
    said = receipt_of(DENSE, PRUNED, break_even=curve)
    table, drawn = receipt_tables.break_even(said), figures_time.break_even(said)
    assert table is not None
    assert "never as fast; in 8 bits, blocks of four inputs: as fast from 40% sparsity on." in table.caption
    assert [row[:2] for row in table.rows] == [
        *(("float32, single weights", percent) for percent in ("0%", "90%")),
        *(("8 bits, blocks of four inputs", percent) for percent in ("0%", "80%")),
    ]
    assert drawn is not None
    assert [line["name"] for line in drawn.spec["data"]][:2] == [
        "program of prunus",
        "program in 8 bits, zeros in blocks",
    ]
    assert [mark["text"] for mark in drawn.spec["layout"]["annotations"]] == [" break-even: 40%"]


def test_what_is_gone_and_what_is_zero_are_told_apart_in_the_headline():
    last = model("packed", 900, 700)
    assert headline(receipt_of(DENSE, last)).startswith("10.0% of the parameters are gone, another 20.0% are zero;")


def test_a_larger_file_is_said():
    masked = model("masked", 2000, 1800, sizes={"safetensors": 8200})
    file = key_figure(receipt_of(DENSE, masked), "File")
    assert (file.value, file.verdict, file.tone) == ("+100.6%", "larger", "bad")
    assert "The file is 100.6% larger (4,088 → 8,200 bytes)" in headline(receipt_of(DENSE, masked))


@pytest.mark.parametrize(
    ("before", "after", "ratio", "verdict"),
    [
        ((100, 95, 110), (98, 93, 108), "0.98", "not told apart"),
        ((100, 95, 110), (50, 48, 55), "0.50", "faster"),
        ((100, 95, 110), (150, 140, 165), "1.50", "slower"),
        ((100, 99.9, 100.1), (99, 98.9, 99.1), "0.99", "not told apart"),  # apart, but by 1%
    ],
)
def test_speed_is_told_only_where_the_medians_are_apart(before, after, ratio, verdict):
    (row,) = speed_rows(timed(Latency(*before, 50), Latency(*after, 50)))
    assert row == ("PyTorch", "1 thread, batch 1", f"{before[0]} µs", f"{after[0]} µs", ratio, verdict)


def timed(*times: Latency, models: tuple[ModelFacts, ModelFacts] = (DENSE, SHRUNK)) -> Receipt:
    """Return a receipt of two models, by default the second with half the arithmetic, timed in one setting."""
    measured = [latencies({("1", "1"): time}) for time in times]
    return receipt_of(*(replace(facts, latency_us=t) for facts, t in zip(models, measured, strict=True)))


def test_many_runs_tell_medians_apart_though_single_calls_overlap():
    few, many = (timed(Latency(100, 90, 125, runs), Latency(90, 81, 112, runs)) for runs in (10, 4000))
    assert speed_rows(few)[0][-1] == "not told apart"
    assert headline(few).endswith("and the model is not measurably faster.")
    assert speed_rows(many)[0][-1] == "faster"
    assert headline(many).endswith("and the model is faster.")


def test_less_than_two_percent_is_no_difference_however_many_runs():
    close = timed(Latency(100, 97, 106, 10**6), Latency(98.1, 95, 104, 10**6))
    assert speed_rows(close)[0][-1] == "not told apart"


def test_the_interval_of_a_median_holds_the_true_one_in_95_of_100_tries():
    samples = numpy.random.default_rng(0).normal(100, 5, (2000, 301))
    times = [Latency(p50, p10, p90, 301) for p10, p50, p90 in numpy.percentile(samples, [10, 50, 90], axis=1).T]
    inside = [low <= 100 <= high for low, high in map(claims.median_interval, times)]
    assert 0.935 <= sum(inside) / len(inside) <= 0.965


def test_a_difference_measured_on_an_unsteady_machine_is_told_with_caution():
    unsteady = timed(Latency(100, 80, 160, 4000), Latency(50, 40, 80, 4000))
    assert speed_rows(unsteady)[0][-1] == "faster"
    assert "Single calls varied up to 2.00-fold" in on(unsteady, "Speed")
    assert headline(unsteady).endswith("and the model is faster, though single calls varied widely.")
    time = key_figure(unsteady, "Time of a call")
    assert (time.verdict, time.tone) == ("saved", "plain")
    assert time.detail.endswith("; single calls varied widely")
    assert on(timed(Latency(100, 95, 110, 50), Latency(50, 48, 55, 50)), "Speed") == ""


def test_a_difference_that_only_the_machine_explains_is_not_called_one():
    noisy = timed(Latency(100, 80, 160, 4000), Latency(50, 40, 80, 4000), models=(DENSE, PRUNED))
    assert headline(noisy).endswith("and no difference in speed could be measured reliably.")
    time = key_figure(noisy, "Time of a call")
    assert (time.verdict, time.tone) == ("unclear", "plain")


def test_a_gain_in_speed_without_less_arithmetic_is_doubted():
    times = Latency(100, 95, 110, 50), Latency(50, 48, 55, 50)
    doubt = "Both models do the same multiply-adds, so pruning is no reason for a difference in time between them."
    assert on(timed(*times, models=(DENSE, PRUNED)), "Speed") == doubt
    assert on(timed(*times), "Speed") == ""
    assert on(timed(times[0], times[0], models=(DENSE, PRUNED)), "Speed") == ""


def test_settings_that_differ_are_told_apart():
    same, slow = Latency(100, 95, 110, 50), Latency(200, 190, 220, 50)
    first = replace(DENSE, latency_us=latencies({("1", "1"): same, ("1", "64"): slow}))
    last = replace(SHRUNK, latency_us=latencies({("1", "1"): same, ("1", "64"): same}))
    said = receipt_of(first, last)
    assert [row[-1] for row in speed_rows(said)] == ["not told apart", "faster"]
    assert headline(said).endswith("and the model is faster in 1 of 2 settings.")


def test_what_was_not_measured_is_not_claimed():
    said = receipt_of(model("dense", 10, 10), model("pruned", 10, 8))
    assert [outcome.label for outcome in outcomes(said)] == ["Zero parameters"]
    assert headline(said) == (
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
    said = with_accuracies((9921, 9925), 10_000, 0.61)
    accuracy = key_figure(said, "Accuracy")
    assert (accuracy.value, accuracy.verdict) == ("99.25%", "within chance")
    assert accuracy.detail == "99.21% before; +0.04 points, p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}0.61"
    assert on(said, "Accuracy") == "A loss of up to 0.16 points would fit these figures too."
    table = receipt_tables.paired_tests(said)
    assert table is not None
    assert table.rows == (("dense → pruned", "3", "7", "+0.04", f"[{MINUS}0.16, +0.24]", "0.61", "no"),)


def test_a_loss_beyond_chance_is_said():
    said = with_accuracies((9921, 9800), 10_000, 1e-9)
    assert "accuracy is worse by 1.21 points" in headline(said)
    assert key_figure(said, "Accuracy").tone == "bad"
    table = receipt_tables.paired_tests(said)
    assert table is not None
    assert table.rows[0][3:] == (f"{MINUS}1.21", f"[{MINUS}1.41, {MINUS}1.01]", "< 0.001", "yes")


@pytest.mark.parametrize(
    ("correct", "recipe", "doubted"),
    [
        ((9000, 9500), {"finetune": {"epochs": 3}}, True),
        ((9000, 9500), {}, False),
        ((9000, 9500), {"prune": {"training": {"epochs": 2}}, "finetune": {"epochs": 1}}, True),
        ((9000, 9500), {"prune": {"training": {"epochs": 3}}, "finetune": None}, True),
        ((9000, 9500), {"prune": {"training": None}, "finetune": {"epochs": 3}}, True),
        ((9500, 9000), {"finetune": {"epochs": 3}}, False),
    ],
)
def test_a_gain_names_the_extra_training_where_there_was_some(correct, recipe, doubted):
    doubt = "pruned was also trained for 3 epochs more than dense, which can be the reason"
    assert (doubt in on(with_accuracies(correct, 10_000, 1e-9, recipe=recipe), "Accuracy")) == doubted


def test_few_images_are_said():
    assert "One test image weighs 0.50 points here." in on(with_accuracies((190, 191), 200, 0.9), "Accuracy")
    assert "One test image weighs" not in on(with_accuracies((9921, 9925), 10_000, 0.61), "Accuracy")


def test_without_a_paired_test_only_the_intervals_are_compared():
    near, far = (
        receipt_of(replace(DENSE, accuracy=accuracy_of(990, 1000)), replace(PRUNED, accuracy=accuracy_of(right, 1000)))
        for right in (985, 900)
    )
    assert "No paired test was made: a difference counts where the 95% intervals lie apart." in on(near, "Accuracy")
    assert "accuracy did not measurably change" in headline(near)
    assert "accuracy is worse by 9.00 points" in headline(far)
    assert key_figure(far, "Accuracy").detail.endswith("not\N{NO-BREAK SPACE}tested")


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
    turned = replace(forward, comparisons=(backward,))
    assert (headline(turned), outcomes(turned), caveats(turned)) == (
        headline(forward),
        outcomes(forward),
        caveats(forward),
    )


@pytest.mark.parametrize(
    ("correct", "p_value", "said"),
    [
        (9800, 1e-6, ""),
        (9924, 0.9, "The test images can't tell pruned from the control random."),
        (9990, 1e-6, "The control random does better than pruned."),
    ],
)
def test_a_control_that_the_result_does_not_beat_is_said(correct, p_value, said):
    control = model("random", 1000, 800, accuracy=accuracy_of(correct, 10_000))
    result = replace(PRUNED, accuracy=accuracy_of(9925, 10_000))
    gap = (correct - 9925) / 10_000
    counts = (max(0, 9925 - correct), max(0, correct - 9925))
    test = PairedTest("pruned", "random", *counts, gap, (gap - 0.001, gap + 0.001), p_value)
    receipt = receipt_of(DENSE, result, controls=(control,), comparisons=(test,))
    assert on(receipt, "Control") == said
    assert on(replace(receipt, controls=(model("random", 1000, 800),), comparisons=()), "Control") == (
        "random was not tested beside pruned."
    )


def test_a_failed_check_is_named_with_its_figures():
    passed, failed = Check("keys", "keys changed", 0, 0, True), Check("zeros", "zeros lost", 3, 0, False)
    assert on(receipt_of(DENSE, PRUNED, checks=(passed, failed)), "Check failed") == "zeros: zeros lost: 3, limit 0."
    table = receipt_tables.checks(receipt_of(DENSE, checks=(passed, failed)))
    assert table is not None
    assert [row[-1] for row in table.rows] == ["passed", "FAILED"]


def test_notes_of_the_measurement_are_passed_on():
    noted = [replace(facts, notes=("zstd is not installed",)) for facts in (DENSE, PRUNED)]
    assert on(receipt_of(*noted), "Note") == "dense and pruned: zstd is not installed."
    curve = curve_of((0.0, 800), notes=("sparsity 0.98 and above: too much",))
    assert on(receipt_of(DENSE, break_even=curve), "Note") == (
        "the break-even curve: sparsity 0.98 and above: too much."
    )


def test_what_was_not_counted_is_said_of_every_model():
    models = [replace(facts, uncounted=("aten::fft", "aten::sort")) for facts in (DENSE, PRUNED)]
    control = model("random", 1000, 800, macs=5000, uncounted=("aten::fft",))
    said = on(receipt_of(*models, controls=(control,)), "Note")
    assert "dense and pruned: not counted among the multiply-adds: aten::fft and aten::sort." in said
    assert "random: not counted among the multiply-adds: aten::fft." in said
    assert "not counted among the multiply-adds" in on(receipt_of(models[0]), "Note")


def test_one_model_alone_claims_no_saving():
    assert headline(receipt_of(PRUNED)) == ("Only pruned was measured, so this says nothing about what pruning saves.")
    assert [(o.label, o.value, o.detail) for o in outcomes(receipt_of(PRUNED))] == [
        ("Parameters", "1,000", "200 of them zero")
    ]
    assert headline(receipt_of()) == "This receipt holds no model."


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
                ).map(lambda measured: latencies(measured, runtime))
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
def test_of_any_receipt_only_what_its_figures_bear_out_is_claimed(models, control):
    first, last = models[0], models[-1]
    receipt = receipt_of(*models, controls=(control,))
    tables = receipt_tables.all_tables(receipt)
    cells = [cell for table in tables for row in table.rows for cell in (*row, table.caption)]
    whole = " ".join([headline(receipt), *cells, *(sentence for _, sentence in caveats(receipt))])
    assert not re.search(r"\b(None|nan|inf)\b", whole)
    by_label = {outcome.label: outcome for outcome in outcomes(receipt)}
    before, after = (facts.bytes.get("safetensors") for facts in (first, last))
    file = by_label.get("File") or by_label.get("Plain file")
    if file is not None:
        assert (file.verdict == "saved") <= (after < before)
        assert (file.verdict == "larger") <= (after > before)
    assert ("Parameters gone" in by_label) == (last.parameters < first.parameters)
    for change in claims.speed_changes(first, last):
        assert (change.verdict == "faster") <= surely_less(change.after, change.before)
        assert (change.verdict == "slower") <= surely_less(change.before, change.after)
