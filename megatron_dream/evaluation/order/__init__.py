"""In which order a model generated: measures, nulls, a label, and the verb ``order``."""

from .analysis import Analysis, SampleOrder, analyse, sample_order
from .measures import OrderFigures, global_ar_ness, local_ar_ness, order_figures
from .record import OrderRecord, read_records

__all__ = [
    "Analysis",
    "OrderFigures",
    "OrderRecord",
    "SampleOrder",
    "analyse",
    "global_ar_ness",
    "local_ar_ness",
    "order_figures",
    "read_records",
    "sample_order",
]
