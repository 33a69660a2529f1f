"""Take a picture of the top of a run's report, as README shows it: python bench/picture.py FOLDER OUT.png."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from prunus.lab import report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# no first-run pages, no updates, no sandbox (which needs rights that containers lack): only the page
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--virtual-time-budget=8000",
)


def find_browser() -> str | None:
    """Return the path of Chromium or Chrome, None where neither is installed."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def browse(page: Path, *options: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Open a page in a headless browser with a profile of its own, and return what the browser printed."""
    browser = find_browser()
    if browser is None:
        raise FileNotFoundError(f"a picture needs a browser, and none of {', '.join(BROWSERS)} is installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [browser, *QUIET, f"--user-data-dir={profile}", *options, page.resolve().as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)


def take(folder: Path, picture: Path, width: int = 1200, height: int = 860) -> None:
    """Write the top of the folder's report as a PNG; the report is made first if it is not there."""
    page = folder / "report.html"
    if not page.is_file():
        report.write_page(folder)
    picture.parent.mkdir(parents=True, exist_ok=True)
    browse(page, f"--window-size={width},{height}", f"--screenshot={picture.resolve()}")
    if not picture.is_file():
        raise RuntimeError(f"the browser wrote no picture to {str(picture)!r}")


def main() -> None:
    """Read the command line and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a run's folder, such as runs/lenet/seed-0")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    parser.add_argument("--width", type=int, default=1200, help="pixels")
    parser.add_argument("--height", type=int, default=860, help="pixels")
    arguments = parser.parse_args()
    take(arguments.folder, arguments.picture, arguments.width, arguments.height)
    print(f"wrote {arguments.picture}")


if __name__ == "__main__":
    main()
