"""Tables of one's own: read again as they were written, by a spreadsheet too, and the wrong line named."""

from dataclasses import dataclass

import pytest

from workbench import tables


@dataclass
class Price:
    name: str
    usd: float


def read(file):
    return tables.read(file, Price, lambda row: Price(row["name"], float(row["usd"])))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_table_that_a_spreadsheet_kept_is_the_same(tmp_path, mark):
    """It puts a byte-order mark before the first column's name."""
    file, prices = tmp_path / "prices.csv", [Price("añ, b", 1.5), Price("c", 2.0)]
    tables.write(file, Price, prices)
    file.write_bytes(mark + file.read_bytes())
    assert read(file) == prices
    file.write_bytes(mark + b"name,usd\na,1\nb,cheap\n")
    with pytest.raises(ValueError, match=r"prices.csv, line 3: .*cheap"):
        read(file)
    file.write_bytes(mark + b"usd\n1\n")
    with pytest.raises(ValueError, match=r"prices.csv: needs the columns name, usd"):
        read(file)
