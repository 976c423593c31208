# Grouped proportional hazards by glm(binomial("cloglog")) on the person-period table.
# Usage: Rscript hazard.R FOLDER_OF_TABLES > hazard.json (see README.md)
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
source(file.path(here, "common.R"))
folder <- commandArgs(trailingOnly = TRUE)[1]

# One row for each patient and interval at risk. Interval k is (lower, upper]. Who is censored inside an interval
# counts up to the one before; who enters inside one counts from the next.
person_period <- function(cohort, edges, delayed, exact) {
  rows <- lapply(seq_along(edges), function(k) {
    upper <- edges[k]
    lower <- if (k == 1) 0 else edges[k - 1]
    event_here <- cohort$event == 1 & cohort$time > lower & cohort$time <= upper
    at_risk <- event_here | cohort$time >= upper
    if (delayed) at_risk <- at_risk & (if (exact) cohort$entry < upper else cohort$entry <= lower)
    who <- which(at_risk)
    if (length(who)) data.frame(patient = who, interval = k, y = as.integer(event_here[who]))
  })
  do.call(rbind, rows)
}

fit <- function(cohort, edges, delayed, exact, columns) {
  table <- person_period(cohort, edges, delayed, exact)
  data <- data.frame(y = table$y, interval = factor(table$interval, levels = seq_along(edges)),
                     cohort$z[table$patient, columns, drop = FALSE])
  model <- glm(y ~ . - 1, family = binomial("cloglog"), data = data,
               control = glm.control(epsilon = 1e-14, maxit = 200))
  # Fisher scoring converges linearly, and a deviance that no longer changes leaves 1e-7 in the coefficients: go on.
  for (more in 1:20) {
    model <- suppressWarnings(glm(y ~ . - 1, family = binomial("cloglog"), data = data, start = coef(model),
                                  control = glm.control(epsilon = 1e-300, maxit = 1)))
  }
  stopifnot(all(is.finite(coef(model))), all(table(table$interval[table$y == 1]) > 0))
  k <- length(edges)
  errors <- sqrt(diag(vcov(model)))
  list(
    edges = numbers(edges), alpha = numbers(coef(model)[seq_len(k)]), coefficients = numbers(coef(model)[-seq_len(k)]),
    standard_errors = numbers(errors[-seq_len(k)]), standard_errors_alpha = numbers(errors[seq_len(k)]),
    log_likelihood = as.numeric(logLik(model)), events = sum(table$y)
  )
}

results <- list()
for (name in c("cgd", "rhdnase_cf", "ncctg_lung", "fed_tcga_brca")) {
  cohort <- read_cohort(folder, name)
  kept <- setdiff(seq_len(ncol(cohort$z)), cohort$dropped)
  for (delayed in c(FALSE, TRUE)) for (exact in c(FALSE, TRUE)) {
    used <- cohort$event == 1 & (!delayed | cohort$entry < cohort$time)
    edges <- if (exact) sort(unique(cohort$time[used])) else cohort$edges
    # glm needs its whole dummy matrix: exact times are left to the two small cohorts.
    if (exact && !name %in% c("cgd", "ncctg_lung")) next
    if (exact) {
      # At a time that nobody at risk survives the hazard is infinite and glm has no estimate of it.
      table <- person_period(cohort, edges, delayed, exact)
      edges <- edges[tapply(table$y, table$interval, min) == 0]
    }
    cat(name, delayed, exact, length(edges), "\n", file = stderr())
    fitted <- fit(cohort, edges, delayed, exact, kept)
    results[[length(results) + 1]] <- c(list(cohort = name, delayed = delayed, exact = exact), fitted)
  }
}
cat(json(list(versions = list(R = R.version.string), fits = results)), "\n")
