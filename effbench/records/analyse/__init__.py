"""From records to findings: DataFrame in, DataFrame out."""
