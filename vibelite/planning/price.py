"""What an hour of the machine costs, from the recipe or the command line."""

from __future__ import annotations

from vibelite.recipe.run_section import Cost


def price_per_hour(
    cost: Cost, usd_per_gpu_hour: float | None, num_gpus: int
) -> tuple[float | None, str]:
    """USD an hour of the whole machine, and where that comes from; None where no price is known.

    The command line goes before the recipe. A price per GPU counts for each, and a price in another
    currency needs its rate. An owned machine's electricity is not planned: what a GPU will draw is
    not known before.
    """
    if usd_per_gpu_hour is not None:
        return usd_per_gpu_hour * num_gpus, "--usd-per-gpu-hour"
    if cost.usd_per_hour is not None:
        return cost.usd_per_hour, f"the recipe's cost.usd_per_hour: {cost.source or 'no source'}"
    if cost.price is not None and cost.is_in_usd:
        given = cost.price
        rate = 1 if given.currency == "USD" else given.usd_rate
        times = num_gpus if given.unit == "gpu_hour" else 1
        return float(given.amount * times * (rate or 1)), f"the recipe's cost.price: {given.source}"
    return None, "none is known"
