"""Page replacement (Belady, IBM Systems Journal 5(2), 1966): the worked example of docs/eighth-system.md.

replace.py   the policies    config.py    what a run can be asked
work.py      a run           result.py    what it found, and its figure
"""

from workbench.belady.config import PRESETS, BeladyConfig
from workbench.belady.result import BeladyResult
from workbench.lazy import later
from workbench.system import System

SYSTEM = System(
    name="belady",
    title="Belady: which page to let go",
    paper="Belady, A study of replacement algorithms for a virtual-storage computer, IBM Systems Journal 5(2), 1966",
    about="A full memory must let a page go for each new one. The best choice is the page that is needed latest, which "
    "only a replay of a recorded trace can know; policies that see the past alone are measured against it.",
    config=BeladyConfig,
    result=BeladyResult,
    work=later("workbench.belady.work:work"),
    presets=PRESETS,
    baselines={"best possible": {"policy": "opt"}, "first in, first out": {"policy": "fifo"}},
    backends=frozenset({"cpu"}),
    columns={
        "policy": "who chooses",
        "frames": "pages that memory holds",
        "misses": "requests for a page that was not there",
        "miss_ratio": "misses over requests",
        "request_us": "processor time of a request (microseconds)",
    },
)
