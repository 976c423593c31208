# Shared by coxph.R and hazard.R: reading the tables that tests/reference/cohorts.py wrote, and writing JSON
# with all 17 digits (Debian's R has no JSON package in its base).

read_cohort <- function(folder, name) {
  table <- read.csv(file.path(folder, paste0(name, ".csv")), colClasses = c(site = "character"))
  x <- as.matrix(table[, grep("^z[0-9]+$", names(table)), drop = FALSE])
  # The model's scale: centred, divided by the population standard deviation.
  centred <- sweep(x, 2, colMeans(x))
  z <- sweep(centred, 2, sqrt(colMeans(centred^2)), "/")
  list(
    name = name, site = table$site, time = table$time, event = table$event, entry = table$entry, x = x, z = z,
    edges = read.csv(file.path(folder, paste0(name, "_edges.csv")))$edge,
    dropped = read.csv(file.path(folder, paste0(name, "_dropped.csv")))$column
  )
}

# Times moved to the grid: an event to the first edge at or after it, censoring to the last edge at or before it
# (0 before the first), entry to the first edge (or 0) at or after it. An event after the last edge is censored.
to_grid <- function(cohort) {
  edges <- cohort$edges
  lower <- c(0, edges)
  event <- cohort$event == 1 & cohort$time <= max(edges)
  time <- sapply(seq_along(cohort$time), function(i) {
    t <- cohort$time[i]
    if (event[i]) min(edges[edges >= t]) else max(lower[lower <= t])
  })
  entry <- sapply(cohort$entry, function(e) if (e > max(edges)) Inf else min(lower[lower >= e]))
  modifyList(cohort, list(time = time, entry = entry, event = as.integer(event)))
}

json <- function(value) {
  if (is.null(names(value)) && is.list(value)) {
    return(paste0("[", paste(sapply(value, json), collapse = ",\n"), "]"))
  }
  if (is.list(value)) {
    fields <- sapply(names(value), function(name) paste0("\"", name, "\": ", json(value[[name]])))
    return(paste0("{", paste(fields, collapse = ", "), "}"))
  }
  if (is.character(value)) {
    text <- paste0("\"", value, "\"")
  } else if (is.logical(value)) {
    text <- ifelse(value, "true", "false")
  } else {
    text <- sprintf("%.17g", value)
  }
  if (length(value) == 1 && is.null(attr(value, "array"))) text else paste0("[", paste(text, collapse = ", "), "]")
}

numbers <- function(value) structure(unname(as.numeric(value)), array = TRUE)
