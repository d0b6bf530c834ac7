"""The two call-sites of the sales-report assistant: their system prompts, and a record as a chat request's messages."""

from __future__ import annotations

import json
from typing import Any, Final

from shoal.examples.sales_report.records import Record

ANALYSE: Final = "analyse"
WRITE: Final = "write"
CALL_SITES: Final = (ANALYSE, WRITE)

SYSTEM_PROMPTS: Final = {
    ANALYSE: (
        "You are the analyst of a sales-report assistant. Choose the driver and the recommended action for a JSON record "
        "of sales figures: online, stores, partners and price_effect are the points of growth that each brought, "
        "returns_rate is in per cent of units, stock_out_days are days of the quarter.\n"
        'Drivers: "product returns", "stock shortages", "pricing", "online sales", "store sales", "partner sales".\n'
        'Actions: "audit product quality", "raise safety stock", "keep the new price", "review the price list", '
        '"raise the channel budget", "keep the channel plan", "repair the channel".\n'
        "House rules: when sales fell, a returns rate of 8 or more is the driver, else 9 or more stock-out days; in all "
        "other cases it is what moved sales most in the direction of growth. A channel that brought growth of 10 or more "
        "gets more budget.\n"
        'Answer with a JSON object only: {"driver": ..., "action": ...}'
    ),
    WRITE: (
        "You are the writer of a sales-report assistant. Write the JSON record as a sentence for a business report. "
        "Name the region, the growth in per cent (without its sign) and the driver exactly as they stand in the record. "
        "Answer with the sentence only."
    ),
}


def messages_for(call_site: str, record: Record) -> list[dict[str, Any]]:
    """The messages that the assistant sends for a record."""
    return [
        {"role": "system", "content": SYSTEM_PROMPTS[call_site]},
        {"role": "user", "content": json.dumps(record, ensure_ascii=False)},
    ]
