"""A fixture: a week whose promise cannot even be imported."""

raise ImportError("no module named scenes")
