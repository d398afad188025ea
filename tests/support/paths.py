"""Where things are in the repository, for tests that read them: a test may move without looking for them anew."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
EXAMPLES = ROOT / "examples"
FIXTURES = ROOT / "tests" / "fixtures"
TOOLS = ROOT / "tools"
