"""What an mm2-gb run can be asked: the fields of the form and the flags of the command line."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from workbench.system import Config

ADVANCED: dict[str, Any] = {"group": "advanced"}
SCHEDULE: dict[str, Any] = {"group": "schedule on a GPU (modelled)"}


class Mm2Config(Config):
    """Map long reads, time what chains them, and model how a GPU would share the work out. 1 Mb is 10**6 bases."""

    backend: Literal["auto", "cpu", "cuda", "hip", "sim"] = Field(  # type: ignore[assignment]  # one more than others
        "auto",
        description="cpu maps and measures; cuda and hip chain on an NVIDIA or AMD GPU (compiled for sm_80, sm_90 and "
        "gfx90a, never run on a GPU here); sim only models the schedule on a GPU; auto: a GPU that passes its check, "
        "else cpu",
    )
    reads: Literal["simulated", "real", "file"] = Field(
        "simulated",
        description="simulated: cut from the reference, with errors and known places; real: ultra-long nanopore reads "
        "of E. coli under WORKBENCH_DATA; file: reads_file",
    )
    reads_file: str | None = Field(
        None, description="FASTA or FASTQ of yours, gzip too, for reads='file'", json_schema_extra={"none": "none"}
    )
    reference_file: str | None = Field(
        None,
        description="FASTA of yours to map onto, gzip too; None: E. coli K-12 MG1655, which is shipped",
        json_schema_extra={"none": "E. coli"},
    )
    satellite_kbp: float = Field(
        0.0,
        ge=0,
        le=2000,
        description="Tandem repeats put into the reference, thousands of bases in all, as centromeres have them: they "
        "make work uneven. 0, and for other than simulated reads: the reference as it is",
    )
    megabases: float = Field(
        5.0, ge=0.05, le=200, description="Bases of reads, Mb: reads are simulated or read until so many are reached"
    )
    length_kbp_min: float = Field(
        1.0, ge=0.1, le=1000, description="Shortest simulated read, thousands of bases; lengths are log-uniform"
    )
    length_kbp_max: float = Field(300.0, ge=0.1, le=5000, description="Longest simulated read, thousands of bases")
    error_pct: float = Field(
        5.0, ge=0, le=30, description="Errors of simulated reads, per 100 bases; new nanopore reads have 1 to 5"
    )
    map_preset: Literal["map-ont", "map-pb", "map-hifi"] = Field("map-ont", description="minimap2's preset")
    mode: Literal["exact_skip25", "full"] = Field(
        "full",
        description="exact_skip25: minimap2's heuristic, to the bit; full: every predecessor is looked at, as "
        "minimap2 does with an unlimited --max-chain-skip, and as a GPU does",
    )
    kernel: Literal["auto", "scalar", "avx2", "avx512", "one_source"] = Field(
        "auto", description="What runs the dynamic programme of mode full; auto: the best of this processor"
    )
    threads: int = Field(1, ge=1, le=64, description="Threads that map; what is timed runs on one")
    rounds: int = Field(3, ge=1, le=20, description="Interleaved repetitions of each timing; medians are shown")
    minimap2: bool = Field(
        True, description="Time the installed minimap2, and mappy, on the same reads and compare PAF line by line"
    )
    sim_device: Literal["MI210", "A100", "H200"] = Field(
        "MI210", description="GPU that the schedule is modelled for", json_schema_extra=SCHEDULE
    )
    sim_batch_mbp: float = Field(
        20.0,
        ge=0.1,
        le=500,
        description="Reads of one batch on the GPU, Mb (10**6 bases), drawn from this run's reads",
        json_schema_extra=SCHEDULE,
    )
    segmented: bool = Field(True, description="Cut reads where no anchor reaches the next", json_schema_extra=SCHEDULE)
    pooled: bool = Field(
        True, description="Long segments of all micro-batches share one launch", json_schema_extra=SCHEDULE
    )
    persistent: bool = Field(
        True,
        description="Blocks take the next long segment when they are free, not a fixed share",
        json_schema_extra=SCHEDULE,
    )
    longest_first: bool = Field(
        True, description="Long segments with most work go first, not as they came", json_schema_extra=SCHEDULE
    )
    split: bool = Field(
        True, description="Several blocks share a segment that would end last alone", json_schema_extra=SCHEDULE
    )

    @model_validator(mode="after")
    def _fits(self) -> Mm2Config:
        if (self.reads == "file") != (self.reads_file is not None):
            said = "give the file of reads" if self.reads_file is None else "goes with reads='file' alone"
            raise ValueError(f"reads_file: {said}")
        if self.length_kbp_min > self.length_kbp_max:
            raise ValueError("length_kbp_min: must not exceed length_kbp_max")
        if self.mode == "exact_skip25" and self.kernel not in ("auto", "scalar"):
            raise ValueError("kernel: only the scalar loop follows minimap2's heuristic; mode='full' takes the others")
        if self.backend in ("cuda", "hip") and (self.mode != "full" or self.kernel != "auto"):
            raise ValueError("backend: a GPU has its own kernel, of mode='full'; leave kernel='auto'")
        return self


PRESETS = {
    "tiny": Mm2Config(megabases=0.5, length_kbp_max=120.0, satellite_kbp=40.0, rounds=1),
    "small": Mm2Config(megabases=6.0, satellite_kbp=20.0),
    "real": Mm2Config(reads="real", megabases=20.0),
    "paper": Mm2Config(backend="sim", megabases=10.0, satellite_kbp=40.0, sim_batch_mbp=100.0),
}

BASELINES: dict[str, dict[str, Any]] = {
    "minimap2's heuristic": {"mode": "exact_skip25", "kernel": "auto"},
    "scalar kernel": {"mode": "full", "kernel": "scalar"},
    "no segmentation": {"segmented": False},
    "no pooling": {"pooled": False},
    "no persistence": {"persistent": False},
    "not sorted": {"longest_first": False},
    "not split": {"split": False},
}
