"""The grader beside plain math-verify, on pairs labelled by hand."""
