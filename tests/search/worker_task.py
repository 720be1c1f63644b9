"""What the workers of a test evaluate: as a script, one worker of a study; see test_workers.py."""

import os
import sys
import time

from brickyard.core.config import Config
from brickyard.core.decision import Choice
from brickyard.core.space import Space

LOG = "BRICKYARD_TEST_LOG"
SPACE = Space([Choice(f"layer{place}", [1, 2, 3]) for place in range(5)])


def evaluate(config: Config) -> dict[str, float]:
    """Take a moment, as a real evaluation does."""
    time.sleep(0.05)
    values = list(config.values())
    return {"error": 20.0 - sum(values), "macs": float(sum(value**2 for value in values))}


def logged(config: Config) -> dict[str, float]:
    """Write down what is evaluated, in the file that the environment names."""
    log = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, f"{config.digest()}\n".encode())
    os.close(log)
    return evaluate(config)


def broken(config: Config) -> dict[str, float]:
    """Fail always."""
    raise OSError("no device")


if __name__ == "__main__":
    import optuna

    from brickyard.search import Search
    from brickyard.search.storage import open_storage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = Search(
        space=SPACE,
        objectives=["error", "macs"],
        storage=open_storage(sys.argv[1], heartbeat_s=1),
        sampler="random",
    )
    search.run(evaluate, evaluations=int(sys.argv[2]))
