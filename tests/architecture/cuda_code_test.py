"""The checker of the CUDA kernels' machine code finds what it must, in listings such as cuobjdump prints."""

import importlib.util
import os
import unittest
from pathlib import Path

ROOT = Path(os.environ.get("BITLAB_SOURCE_DIR", Path(__file__).resolve().parents[2]))
SPEC = importlib.util.spec_from_file_location("check_cuda_code", ROOT / "tools" / "check_cuda_code.py")
checker = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(checker)

EARLY = "_Z10mma_kernelI10MmaProductEvv"
# Codes, a wait that a branch leads to, q, and a loop around a product.
PRODUCT = """
LDG.E.EF.128 R4, [R2.64]
@P0 BRA 0x30
EXIT
ACQBULK
LDG.E R8, [R6.64]
IMMA.16832.S8.S8 R0, R4.ROW, R8.COL, R0
@!P1 BRA 0x40
STG.E [R6.64], R0
EXIT
BRA 0x90
"""


def listing(code, architecture="sm_90a", kernel=EARLY):
    lines = [f"\tcode for {architecture}", f"\t\tFunction : {kernel}"]
    lines += [f"        /*{16 * i:04x}*/                   {line} ;   /* 0x0 */" for i, line in enumerate(code.strip().splitlines())]
    return "\n".join(lines)


def problems(code, **how):
    return checker.check(checker.parse(listing(code, **how).splitlines()))[1]


class CudaCode(unittest.TestCase):
    def assert_found(self, text, code, **how):
        found = problems(code, **how)
        self.assertTrue(any(text in problem for problem in found), found)

    def test_kernels_as_they_are_meant_pass(self):
        self.assertEqual(problems(PRODUCT), [])
        counts = checker.check(checker.parse((listing(PRODUCT) + "\n" + listing("EXIT", "sm_80", "_Z4copy")).splitlines()))[0]
        self.assertEqual(counts, {"sm_90a": 1, "sm_80": 1})

    def test_fused_operations_are_found(self):
        self.assert_found("found FFMA", "FFMA R0, R1, R2, R3\nEXIT", kernel="_Z4copy")
        self.assert_found("found DFMA", "MUFU.RCP R1, R1\nDFMA R0, R2, R4, R6\nEXIT", kernel="_Z4copy")  # an integer division
        self.assertEqual(problems("FCHK P0, R1, R2\nFFMA R0, R1, R2, R3\nEXIT", kernel="_Z4copy"), [])
        self.assertEqual(problems("FFMA R0, R1, R2, R3\nEXIT", kernel="_Z3runI12FloatProductE"), [])

    def test_memory_in_front_of_the_wait_is_found_on_every_path(self):
        for early in ("LDG.E.CONSTANT R8, [R6.64]", "STG.E [R6.64], R0", "UTMALDG.2D [UR4], [UR6]"):
            self.assert_found("in front of it", PRODUCT.replace("LDG.E.EF.128 R4, [R2.64]", early))
        # A way around the wait.
        self.assert_found("found LDG.E R8", PRODUCT.replace("@P0 BRA 0x30", "@P0 BRA 0x40"))
        self.assert_found("found LDG.E R8", PRODUCT.replace("@P0 BRA 0x30", "BRA.DIV UR4, 0x40"))
        self.assert_found("found LDG.E R8", PRODUCT.replace("@P0 BRA 0x30", "CALL.REL.NOINC 0x40"))
        self.assert_found("found none", PRODUCT.replace("ACQBULK", "NOP"))
        # Behind an end that is none there is one.
        self.assertEqual(problems(PRODUCT.replace("EXIT\nACQBULK", "EXIT\nACQBULK\nNOP").replace("0x40", "0x50").replace("0x90", "0xa0")), [])

    def test_other_architectures_do_not_wait(self):
        self.assertEqual(problems(PRODUCT.replace("ACQBULK", "NOP"), architecture="sm_80"), [])

    def test_registers_that_the_product_writes_to_memory_are_found(self):
        self.assert_found("1 of them written to memory from 0x50 on", PRODUCT.replace("IMMA", "STL [R1], R0\nIMMA"))
        self.assertEqual(problems(PRODUCT.replace("IMMA", "LDL R0, [R1]\nIMMA")), [])
        self.assertEqual(problems(PRODUCT.replace("STG.E [R6.64], R0", "STL [R1], R0")), [])
        # A block that stands elsewhere and leads back into the middle of a loop is none by itself.
        cold = "LDG.E.EF.128 R4, [R2.64]\nACQBULK\n@P2 BRA 0x70\nIMMA.16832 R0, R4, R8, R0\n@!P1 BRA 0x20\nSTL [R1], R0\nEXIT\nNOP\nBRA 0x30"
        self.assertEqual(problems(cold), [])
        self.assert_found("1 of them", cold.replace("NOP", "STL [R1], R0"))

    def test_products_without_matrix_units_are_found(self):
        self.assert_found("expected a loop around IMMA", PRODUCT.replace("IMMA", "IDP"))
        kernel = EARLY.replace("10mma_kernel", "12wgmma_kernel")
        self.assert_found("expected a loop around IGMMA", PRODUCT, kernel=kernel)
        self.assertEqual(problems("EXIT", architecture="sm_80", kernel=kernel), [])

    def test_what_is_not_followed_is_told(self):
        self.assert_found("found BRX", PRODUCT.replace("@P0 BRA 0x30", "BRX R2 -0x30"))

    def test_ptx_says_how_it_rounds(self):
        def found(line, kernel="_Z4copy"):
            return list(checker.problems_of_ptx([f".visible .entry {kernel}(", line]))

        for line in ("add.f32 %f1, %f2, %f3;", "@%p1 mul.ftz.f32 %f1, %f2, %f3;", "fma.rn.f32 %f1, %f2, %f3, %f4;", "mad.rn.f64 %d1, %d2, %d3, %d4;"):
            self.assertEqual(len(found(line)), 1, line)
        for line in ("add.rn.f32 %f1, %f2, %f3;", "mul.rn.ftz.f32 %f1, %f2, %f3;", "mad.lo.s32 %r1, %r2, %r3, %r4;", "add.s64 %rd1, %rd2, 4;"):
            self.assertEqual(found(line), [], line)
        self.assertEqual(found("fma.rn.f32 %f1, %f2, %f3, %f4;", "_Z3runI12FloatProductE"), [])


if __name__ == "__main__":
    unittest.main()
