"""How a result looks: pages of text and tables, charts, and the report that puts both into one file.

* `page.py` what a page is (`Page` of `Table`s and `Plot`s, all cells already text) and how figures are written on it,
  always with what is believed of them and their band;
* `plans.py` the page of a plan, which the terminal and the report both show;
* `charts.py` matplotlib figures from plain arrays: latency CDF, timeline, Pareto front, workload;
* `files.py` a figure as PNG and SVG, the same bytes for the same figure;
* `report.py` a page and its charts as one HTML file that needs nothing beside it.

Charts need the extra `headway[pictures]`; pages and tables need nothing.
"""
