"""Gradient signal-to-noise ratio of layers, measured during ordinary training steps::

    moments = gradient_moments(model, inputs, targets, criterion, ["blocks"])
    float(gsnr(moments))

``gradient_moments`` measures one batch, ``GradientMoments`` a step of a training loop,
``GsnrObserver`` some steps of every epoch, and ``NoiseObserver`` the noise of every step. Any
module that treats samples apart is measured; one without a file in ``layers/`` is run again sample
by sample, which is exact and slower (``GradientMoments(...).generic`` names them). What mixes
samples is refused.
"""

from rectify.gsnr.estimators import ESTIMATORS, Gsnr, gsnr
from rectify.gsnr.measure import gradient_moments
from rectify.gsnr.moments import GradientMoments, Moments, across_ranks, merged
from rectify.gsnr.noise import NoiseObserver, NoiseRow
from rectify.gsnr.norms import GradientNorms, Norms
from rectify.gsnr.observer import GsnrObserver, GsnrRow

__all__ = [
    "ESTIMATORS",
    "GradientMoments",
    "GradientNorms",
    "Gsnr",
    "GsnrObserver",
    "GsnrRow",
    "Moments",
    "NoiseObserver",
    "NoiseRow",
    "Norms",
    "across_ranks",
    "gradient_moments",
    "gsnr",
    "merged",
]
