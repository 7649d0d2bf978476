"""What a run on backend "cuda" starts, over doubles of the driver (behind cuda-bindings), torch.cuda and CUPTI.

WORKBENCH_CUPTI=.../libcupti.so WORKBENCH_CACHE=FOLDER python cuda_run_double.py FD
"""

import sys
import tempfile
from functools import partial

import cuda_capture_double as double  # torch's double is in place from here on
import torch_double
from cuda_small import ROWS, SLOTS, fill
from libcuda_double import serve

from workbench.foundry import child, cuda_capture, cuda_child

FOLDER = tempfile.mkdtemp()
SERVED = serve(double.DRIVER, FOLDER)


class Subject(double.Subject):
    """The small step, over memory that lies anywhere."""

    def about(self):
        return {"name": "small", "vocab": ROWS, "capacity": SLOTS}

    def fill(self, place):
        by_offset = {t.offset: place[t.name] for t in self.tensors if t.role == "weight"}
        write = staticmethod(lambda offset, raw: double.DRIVER.write(by_offset[offset].data_ptr(), raw))
        fill(type("Arena", (), {"write": write}))


def without_torch(do):
    """A load imports none: the double, which had to be in place before, is out of sight."""

    def run(job):
        if job["do"] == "rebuild" or job.fields.get("way") == "foundry":
            for name in ("torch", "torch._inductor", "triton"):
                sys.modules.pop(name, None)
        return do(job)

    return run


if __name__ == "__main__":
    cuda_child.subject = lambda job: Subject(FOLDER)
    cuda_capture.at = lambda address, t: torch_double.Tensor(address, t.shape, t.dtype)
    cuda_capture.capture = partial(cuda_capture.capture, room=128 << 20)
    child.main({name: without_torch(do) for name, do in cuda_child.DO.items()})
