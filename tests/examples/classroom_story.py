"""A teacher's story: a page and a video that show in class what it means to learn to learn.

    python classroom_story.py

A short training, of which the page says what came out, and a video of one goal that the policy has never seen: before
adaptation it searches, afterwards it goes there. The commands would be `metarl train`, `metarl report` and
`metarl render RUN --out video.gif`.
"""

import argparse
from pathlib import Path
from typing import Any

import metarl

GOAL = "goal=0.4,0.3"


def show(env: str, task: str, out: Path, video: str = "video.gif", **size: Any) -> list[Path]:
    """Train; write a page, a video of one task, and a figure of several.

    Args:
        env: a family that draws images.
        task: of the video, as `metarl envs` names its parameters; "": the first of the test tasks.
        out: directory of the files.
        video: .gif for a page or slides, .mp4 with the extra `render`.
        size: settings of the training, such as iterations=15.
    """
    run = metarl.train("maml", env, **size)
    out.mkdir(parents=True, exist_ok=True)
    page = run.report(out / "report.html")
    shown = run.render(out / video, task=task, num_tasks=1)
    figure = run.render(out / "paths.png", num_tasks=3)
    return [page, shown, figure]


def main() -> None:
    """The whole story, at the size that the command line gives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="point-navigation/finn", help="a family that draws images")
    parser.add_argument("--task", default=GOAL, help="the task of the video")
    parser.add_argument("--iterations", type=int, default=15, help="of meta-training")
    parser.add_argument("--video", default="video.gif", help="its name; .mp4 needs the extra `render`")
    parser.add_argument("--out", type=Path, default=Path("class"), help="directory of the files")
    given = parser.parse_args()

    for path in show(given.env, given.task, given.out, given.video, iterations=given.iterations):
        print(f"to show: {path}")


if __name__ == "__main__":
    main()
