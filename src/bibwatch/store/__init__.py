"""The store: schema, migrations, ledger and results. The only room that speaks SQL."""
