"""Telling a full memory from other errors of torch, which has several ways to say it."""

_SAID = ("not enough memory", "can't allocate memory", "bad_alloc", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that the memory of the processor or of a GPU is full."""
    import torch

    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    # Torch's allocator on the processor raises a plain RuntimeError.
    return type(error) is RuntimeError and any(words in str(error) for words in _SAID)
