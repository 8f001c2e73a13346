"""The notebooks run from top to bottom."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

TUTORIALS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.ipynb"))
DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore")
def test_tutorial(path, tmp_path, monkeypatch):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    code = ["".join(cell["source"]) for cell in cells]
    if any("SCDIFFUSION_DATA" in source for source in code):
        if not DATA.exists():
            pytest.skip("its dataset is not beside the repository")
        monkeypatch.setenv("SCDIFFUSION_DATA", str(DATA))
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": path.stem}
    for number, source in enumerate(code):
        exec(compile(source, f"{path.name}, cell {number}", "exec"), namespace)
        plt.close("all")


def test_the_notebooks_are_stored_executed():
    assert TUTORIALS
    for path in TUTORIALS:
        cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        assert any(cell["outputs"] for cell in cells), path.name
        assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"]), path.name
