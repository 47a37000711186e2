"""Everything that answers one query. Never imports Prefect."""
