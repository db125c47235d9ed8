"""A recurrent network that reads characters."""

from flax import linen as nn


class CharacterRNN(nn.Module):
    """What comes next, at every place of a text: codes `[n, T]` to logits `[n, T, vocabulary]`.

    Characters are embedded in `features` dimensions and go through `layers` LSTMs of `hidden` units, which begin at
    zero; the last layer is called `head`. The defaults are those of McMahan et al. 2017 (arXiv 1602.05629).
    """

    vocabulary: int
    features: int = 8
    hidden: int = 256
    layers: int = 2

    @nn.compact
    def __call__(self, x):
        x = nn.Embed(self.vocabulary, self.features, name="embedding")(x)
        for i in range(self.layers):
            x = nn.RNN(nn.OptimizedLSTMCell(self.hidden), name=f"lstm_{i}")(x)
        return nn.Dense(self.vocabulary, name="head")(x)
