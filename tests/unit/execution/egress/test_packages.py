from pathlib import Path
from typing import Any

from intramuros.execution.egress.packages import ROOT, plan, read_packages, search_path, variables

# As a careless client writes them, in no order.
RAW: dict[str, Any] = {
    "type": "packages",
    "pip": ["duckdb==1.1.0"],
    "npm": ["left-pad@1.3.0"],
    "go": ["example.com/a@v1.2.3", "example.com/b"],
    "gem": ["rake:13.0.6"],
    "cargo": ["ripgrep@14.1.0"],
    "apt": ["jq", "tree"],
}


def test_what_is_no_package_is_left_out() -> None:
    raw = {
        "apt": ["ok", "-oAPT::Pre-Invoke=x", "two words", "a\nb", 7, "", "x" * 256, "nul\0"],
        "pip": "duckdb",
        "npm": [],
        "brew": ["x"],
    }
    assert read_packages(raw) == {"apt": ("ok",)}
    for raw_form in (None, [], "x", {"apt": None}):
        assert read_packages(raw_form) == {}


def test_a_name_is_one_word_of_its_shell(tmp_path: Path) -> None:
    (step,) = plan({"pip": ("a;touch${IFS}x",)})
    assert step.commands[0][-1] == "a;touch${IFS}x"


def test_programs_find_what_is_installed() -> None:
    known = read_packages(RAW)
    assert variables(known)["PYTHONPATH"] == f"{ROOT}/pip"
    assert set(variables({"pip": ("x",)})) == {"PYTHONPATH"}
    assert search_path(known) == tuple(
        f"{ROOT}/{m}/bin" for m in ("cargo", "gem", "go", "npm", "pip")
    )
    assert search_path({}) == () == tuple(variables({}))
