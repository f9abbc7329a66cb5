"""What the documents say is true: README quotes the results and the code, links lead somewhere, named folders exist."""

import os
import re
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(os.environ.get("BITLAB_SOURCE_DIR", Path(__file__).resolve().parents[2]))
LISTED = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True).stdout.split()
DOCUMENTS = [ROOT / name for name in LISTED] or sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))


def without_code(text):
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)


class Documents(unittest.TestCase):
    def test_readme_quotes_what_is_there(self):
        result = subprocess.run([sys.executable, str(ROOT / "tools/results.py"), "--check"], capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_the_command_line_page_is_what_the_programs_say(self):
        programs = Path(os.environ.get("BITLAB_BINARY_DIR", "")) / "bin"
        if not (programs / "bitlab").exists():
            self.skipTest("built without training: no bitlab to ask")
        command = [sys.executable, str(ROOT / "tools/cli_reference.py"), str(programs), "--check"]
        result = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_links_lead_somewhere(self):
        self.assertIn(ROOT / "README.md", DOCUMENTS)
        for document in DOCUMENTS:
            for target in re.findall(r"\]\(([^)#]+)[^)]*\)", without_code(document.read_text())):
                if "://" not in target:
                    self.assertTrue((document.parent / target).exists(), f"{document}: {target}")

    def test_the_map_of_folders_is_complete(self):
        text = (ROOT / "CONTRIBUTING.md").read_text()
        for folder in (ROOT / "bitlab").iterdir():
            if folder.is_dir():
                self.assertRegex(text, rf"(?m)^  {folder.name}/ ", folder.name)

    def test_every_decision_is_listed(self):
        index = (ROOT / "docs/decisions/README.md").read_text()
        for decision in (ROOT / "docs/decisions").glob("0*.md"):
            self.assertIn(decision.name, index)


if __name__ == "__main__":
    unittest.main()
