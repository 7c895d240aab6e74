"""Copies of tensors in host memory, which are written to files while training goes on."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm.atomic import with_path_in_error

# The names of data types in the header of a safetensors file.
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class Snapshot:
    """A copy of tensors in host memory, whose memory is used again by the next copy.

    Copies from a GPU go to pinned memory on a stream of their own, while the GPU computes the next gradient. The next
    step of the optimizer waits on the GPU until they are complete. (The moving average of the weights is updated after
    that step on the same stream, so it waits too.) On other devices `take` returns when the copy is complete.

    Args:
        optimizer: the optimizer that changes the tensors.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._files: dict[str, dict[str, Tensor]] = {}
        self._stream: torch.cuda.Stream | None = None
        self._copied: torch.cuda.Event | None = None
        self._optimizer = optimizer

    @torch.no_grad()
    def take(self, files: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Copy the tensors of each file; the previous copy must not be needed any more.

        The first call also allocates the memory: as many bytes as the tensors have, and on a GPU up to twice as many,
        because torch rounds pinned allocations up to powers of two.

        Args:
            files: file -> name -> tensor.
        """
        self._files = {
            file: {name: self._buffer(file, name, tensor) for name, tensor in tensors.items()}
            for file, tensors in files.items()
        }
        pairs = [(self._files[file][name], tensor) for file in files for name, tensor in files[file].items()]
        device = pairs[0][1].device
        if device.type != "cuda":
            for copy, tensor in pairs:
                copy.copy_(tensor)
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
            self._optimizer.register_step_pre_hook(self._delay_step)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            for copy, tensor in pairs:
                copy.copy_(tensor, non_blocking=True)
        self._copied = self._stream.record_event()

    def write(self, folder: Path) -> dict[str, str]:
        """Write the files into a folder, and return the SHA-256 of each.

        Raises:
            OSError: if a file cannot be written; names it.
        """
        if self._copied is not None:
            self._copied.synchronize()
        return {file: write_tensors(folder / file, tensors) for file, tensors in self._files.items()}

    def _buffer(self, file: str, name: str, tensor: Tensor) -> Tensor:
        """Return the contiguous memory for the copy of a tensor: that of its previous copy, or else new one."""
        known = self._files.get(file, {}).get(name)
        if known is not None and (known.shape, known.dtype) == (tensor.shape, tensor.dtype):
            return known
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")

    def _delay_step(self, optimizer: torch.optim.Optimizer, *arguments: Any) -> None:
        if self._copied is not None:
            self._copied.wait()         # the current stream waits, and this thread does not


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a safetensors file and return its SHA-256, computed from what is written rather than from the disk.

    Tensors of one data type give the same bytes as `save_file` of safetensors, which up to version 0.7 keeps Python's
    other threads waiting until the file is complete. Format: https://github.com/huggingface/safetensors#format

    Args:
        path: the file; its folder is created.
        tensors: contiguous tensors on the CPU.

    Raises:
        OSError: if it cannot be written; names it.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}         # required by diffusers
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))      # keeps all aligned
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def parts() -> Iterator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little") + text
        yield from (_bytes(tensor) for _, tensor in ordered)

    digest = hashlib.sha256()
    with with_path_in_error(path):
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            for part in parts():        # writing and hashing let the other threads run
                file.write(part)
                digest.update(part)
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor."""
    return tensor.detach().flatten().view(torch.uint8).numpy().data
