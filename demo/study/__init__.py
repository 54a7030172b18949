"""How should N references be aggregated? `python -m multi_ipadapter.demo.study` answers."""
