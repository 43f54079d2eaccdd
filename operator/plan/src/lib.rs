//! Pure decisions of the operator: validate, plan, build, status.
