"""A driver of GPUs that is made up; torch is not imported here."""

from types import SimpleNamespace


class NVMLError(Exception):
    pass


class FakeDriver:
    """As much of pynvml as is used, for GPUs that are their own handles and UUIDs."""

    NVMLError = NVMLError

    def __init__(
        self,
        millijoules: dict[str, int | None],
        *,
        has_driver: bool = True,
        names: dict[str, str] | None = None,
        cut: tuple[str, ...] = (),
        busy_percent: dict[str, int] | None = None,
    ) -> None:
        self.millijoules = millijoules
        self.has_driver = has_driver
        self.names = names or {}
        self.cut = cut
        self.busy_percent = busy_percent or {}

    def nvmlInit(self) -> None:
        if not self.has_driver:
            raise NVMLError("driver not loaded")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.millijoules)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return list(self.millijoules)[index]

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlDeviceGetName(self, handle: str) -> str:
        return self.names.get(handle, "H100")

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        if not self.cut:
            raise NVMLError("not supported")
        return [int(handle in self.cut)] * 2

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        value = self.millijoules[handle]
        if value is None:
            raise NVMLError("not supported")
        return value

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:
        if handle not in self.busy_percent:
            raise NVMLError("not supported")
        return SimpleNamespace(gpu=self.busy_percent[handle], memory=0)
