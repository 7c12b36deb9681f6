"""torch's elementwise functions on the CPU, made exact from their first call on."""

# What torch hands to MKL's vector math. Some are needed only by the rotary tables of one family or another.
FUNCTIONS = (
    "acos", "asin", "atan", "cos", "cosh", "erf", "erfc", "erfinv", "exp", "expm1", "log", "log10", "log1p", "log2",
    "sin", "sinh", "sqrt", "tan", "tanh", "lgamma",
)  # fmt: skip


def settle_vector_math() -> None:
    """Call each function once on a single number, before a model is built or run.

    MKL chooses the kernel of a function at its first call. Where two threads make that call together, one of them may run
    a kernel of low accuracy over its whole share: half of the rotary table, and so half of the batch, is then off by up to
    1.5e-4, and the next call is right again. One number is never shared between threads.
    Source: https://github.com/pytorch/pytorch/issues/188792 (MKL 2024.2, which torch up to 2.13 is built with).
    """
    import torch

    for dtype in (torch.float32, torch.float64):
        half = torch.full((1,), 0.5, dtype=dtype)
        for name in FUNCTIONS:
            getattr(torch, name)(half)
