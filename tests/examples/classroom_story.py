"""A teacher's story: a page and a film that show in class what it means to learn to learn.

    python classroom_story.py

A short training, of which the page says what came out, and a film of one goal that the policy has never seen: before
adaptation it searches, afterwards it goes there. The commands would be `metarl train`, `metarl report` and
`metarl render RUN --out film.gif`.
"""

import argparse
from pathlib import Path
from typing import Any

import metarl

GOAL = "goal=0.4,0.3"


def show(env: str, task: str, out: Path, film: str = "film.gif", **size: Any) -> list[Path]:
    """Train; write a page, a film of one task, and a picture of several.

    Args:
        env: a family that draws pictures.
        task: of the film, as `metarl envs` names its parameters; "": the first of the test tasks.
        out: directory of the files.
        film: .gif for a page or slides, .mp4 with the extra `render`.
        size: settings of the training, such as iterations=15.
    """
    run = metarl.train("maml", env, **size)
    out.mkdir(parents=True, exist_ok=True)
    page = run.report(out / "report.html")
    video = run.render(out / film, task=task, num_tasks=1)
    picture = run.render(out / "paths.png", num_tasks=3)
    return [page, video, picture]


def main() -> None:
    """The whole story, at the size that the command line gives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="point-navigation/finn", help="a family that draws pictures")
    parser.add_argument("--task", default=GOAL, help="the task of the film")
    parser.add_argument("--iterations", type=int, default=15, help="of meta-training")
    parser.add_argument("--film", default="film.gif", help="its name; .mp4 needs the extra `render`")
    parser.add_argument("--out", type=Path, default=Path("class"), help="directory of the files")
    given = parser.parse_args()

    for path in show(given.env, given.task, given.out, given.film, iterations=given.iterations):
        print(f"to show: {path}")


if __name__ == "__main__":
    main()
