"""Networks of ours, which a denoiser reads as it reads transformers' models: by its embedding, its
head, and the rest of it, which is the network itself.
"""

from __future__ import annotations

from typing import ClassVar, Self

from torch import nn


class Network(nn.Module):
    """Base of networks that return states before the head.

    Class attributes:
        embedding_name, head_name: where its token embedding and its head are, as in a state dict.
    """

    embedding_name: ClassVar[str]
    head_name: ClassVar[str]

    def get_input_embeddings(self) -> nn.Module:
        """Returns the token embedding (transformers' name for it)."""
        return self.get_submodule(self.embedding_name)

    def get_output_embeddings(self) -> nn.Module:
        """Returns the head (transformers' name for it), which is applied to wanted positions only."""
        return self.get_submodule(self.head_name)

    @property
    def base_model(self) -> Self:
        """The network without its head (transformers' name for it)."""
        return self
