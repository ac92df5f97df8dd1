"""The analysis of records: DataFrame in, DataFrame out."""
