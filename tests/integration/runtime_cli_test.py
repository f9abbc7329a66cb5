"""bitlab-run's own manners: help, version, usage errors."""

import unittest

from programs import check_refused, run


class Manners(unittest.TestCase):
    def test_version_tells_build_and_machine(self):
        result = run("bitlab-run", "--version")
        self.assertEqual(result.returncode, 0)
        for word in ("bitlab-run", "build", "machine"):
            self.assertIn(word, result.stdout)

    def test_help_lists_commands_and_options(self):
        self.assertIn("run", run("bitlab-run", "--help").stdout)
        options = run("bitlab-run", "run", "--help").stdout
        for option in ("--data", "--input", "--logits", "--threads", "--batch", "--json"):
            self.assertIn(option, options)

    def test_usage_errors(self):
        check_refused(self, run("bitlab-run"), 2, "subcommand")
        check_refused(self, run("bitlab-run", "walk"), 2)
        check_refused(self, run("bitlab-run", "run"), 2, "model")
        check_refused(self, run("bitlab-run", "run", "a.bit", "--thread", "1"), 2)
        check_refused(self, run("bitlab-run", "run", "a.bit"), 2, "--data or --input")
        check_refused(self, run("bitlab-run", "run", "a.bit", "--data", "mnist", "--batch", "0"), 2, "--batch")

    def test_missing_model(self):
        check_refused(self, run("bitlab-run", "run", "/none/a.bit", "--data", "mnist"), 3, "/none/a.bit")


if __name__ == "__main__":
    unittest.main()
