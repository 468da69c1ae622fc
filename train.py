"""Train an adapter: `python train.py [group=option] [key=value] [-m key=v1,v2]`; alone, it trains the pocket base."""

from pathlib import Path

from lynx_moe.training.command import command


def train(settings):
    """Returns what a sweep by Optuna maximises: grounding Acc@0.5 and retention, if the run measured them."""
    from lynx_moe.training import run
    from lynx_moe.training.sweeping import objectives

    return objectives(run(settings))


if __name__ == "__main__":
    command(Path(__file__).parent / "conf", "train", train)
