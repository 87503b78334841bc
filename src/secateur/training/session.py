"""One process or several, through Hugging Face Accelerate: devices, each process's share of a batch, sums."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, IterableDataset

from secateur.ground.devices import moved
from secateur.ground.errors import DataError, TrainingError
from secateur.ground.processes import processes, summed

__all__ = ["Placed", "Session", "length"]


class Session:
    """How this process takes part: alone, or as one of several that ``accelerate launch`` or torchrun started.

    Raises:
        TrainingError: Accelerate is not installed, or is set up for something that masks do not go with.
    """

    def __init__(self, bf16: bool = False, device: torch.device | None = None) -> None:
        try:
            from accelerate import Accelerator
            from accelerate.utils import DistributedType
        except ModuleNotFoundError as error:
            raise TrainingError("Training needs Accelerate: pip install 'secateur[train]'.") from error
        accelerator = Accelerator()
        kind, precision = accelerator.distributed_type, accelerator.mixed_precision
        if accelerator.num_processes != processes():
            raise TrainingError(
                f"torch.distributed has {processes()} processes, Accelerate knows of {accelerator.num_processes}: "
                "start them with accelerate launch or torchrun."
            )
        if kind in (DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM):
            raise TrainingError(
                f"Masks need whole parameters on every device, which {kind.value} cuts up: configure plain data "
                "parallelism in accelerate config."
            )
        if precision not in ("no", "bf16"):
            raise TrainingError(
                f"Mixed precision {precision} scales losses, so that gradients are not what methods take them for: "
                "use bf16."
            )
        self._accelerator = accelerator
        self.bf16 = bf16 or precision == "bf16"
        # Alone, the model's device decides; of several processes each has its own.
        alone = accelerator.num_processes == 1 and device is not None
        self.device: torch.device = device if alone and device is not None else accelerator.device
        self.main: bool = accelerator.is_main_process
        self.rank: int = accelerator.process_index
        self.count: int = accelerator.num_processes

    def wrapped(self, model: nn.Module) -> nn.Module:
        """Return the module to call in training: the model itself, or one that averages gradients over processes."""
        if self.count == 1:
            return model
        ids = [self.device] if self.device.type != "cpu" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids)

    def summing(self, net: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Return the context of a backward pass; gradients are averaged over processes after the last of a step."""
        if isinstance(net, nn.parallel.DistributedDataParallel) and not last:
            return net.no_sync()
        return nullcontext()

    def autocast(self) -> torch.autocast:
        """Return the context of a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def batches(self, loader: Iterable[Any]) -> Iterable[Any]:
        """Return this process's share of every batch; of a map-style DataLoader only that share is read.

        A batch of N samples is dealt out, so that many processes make the same steps as one. The last batch of a
        DataLoader is filled up with repeated samples where it cannot be dealt evenly.
        """
        if self.count == 1:
            return loader
        if (
            not isinstance(loader, DataLoader)
            or isinstance(loader.dataset, IterableDataset)
            or loader.batch_sampler is None
        ):
            return _Dealt(loader, self.rank, self.count)
        from accelerate.data_loader import BatchSamplerShard

        if (loader.batch_size or 0) % self.count:
            raise DataError(
                f"Batches of {loader.batch_size} cannot be dealt to {self.count} processes: make the batch size a "
                "multiple."
            )
        shard = BatchSamplerShard(loader.batch_sampler, self.count, self.rank, split_batches=True)  # pyright: ignore[reportArgumentType]
        return DataLoader(
            loader.dataset,
            batch_sampler=shard,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=loader.generator,
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
        )

    def placed(self, value: Any) -> Any:
        """Return a structure with its tensors on this process's device."""
        return moved(value, self.device)

    def mean(self, value: Tensor) -> float:
        """Return the mean of a number over the processes."""
        return float(summed(value.detach().cpu().double())) / self.count

    def agreed(self, value: float) -> float:
        """Return the first process's number in all of them: what is decided by it is then decided alike."""
        return float(summed(torch.tensor(value if self.main else 0.0, dtype=torch.float64)))

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the first one's buffers: each has seen other samples, so running statistics differ."""
        if self.count > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def wait(self) -> None:
        """Wait for all processes."""
        self._accelerator.wait_for_everyone()


class Placed:
    """Batches on this process's device, as often as they are asked for."""

    def __init__(self, batches: Iterable[Any], session: Session) -> None:
        self._batches, self._session = batches, session

    def __iter__(self) -> Iterator[Any]:
        return map(self._session.placed, self._batches)


def length(loader: Iterable[Any]) -> int | None:
    """Return the number of batches, where it is known."""
    try:
        return len(loader) if isinstance(loader, Sized) else None
    except TypeError:  # a DataLoader over a stream
        return None


class _Dealt:
    """An iterable of batches of which each process keeps every n-th sample."""

    def __init__(self, loader: Iterable[Any], rank: int, count: int) -> None:
        self._loader, self._rank, self._count = loader, rank, count

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            size = next((len(t) for t in pytree.tree_leaves(batch) if isinstance(t, Tensor) and t.ndim), 0)
            # Means over shares of one size are the mean over the batch.
            if size % self._count:
                raise DataError(
                    f"A batch of {size} samples cannot be dealt evenly to {self._count} processes: make the batch "
                    "size a multiple, and drop the last batch where it is smaller."
                )
            yield pytree.tree_map_only(Tensor, partial(self._part, size), batch)

    def _part(self, size: int, value: Tensor) -> Tensor:
        return value[self._rank :: self._count] if value.ndim and len(value) == size else value

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]
