# Score test of each covariate alone: anova(test = "Rao") of glm(binomial("cloglog")) on the person-period table, with
# the baseline hazards of the model without covariates as offset; beside it the score test of coxph on the grid.
# Usage: Rscript screening.R FOLDER_OF_TABLES > screening.json (see README.md)
library(survival)
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
source(file.path(here, "common.R"))
folder <- commandArgs(trailingOnly = TRUE)[1]

person_period <- function(cohort) {
  edges <- cohort$edges
  rows <- lapply(seq_along(edges), function(k) {
    upper <- edges[k]
    lower <- if (k == 1) 0 else edges[k - 1]
    event_here <- cohort$event == 1 & cohort$time > lower & cohort$time <= upper
    who <- which(event_here | cohort$time >= upper)
    data.frame(patient = who, interval = k, y = as.integer(event_here[who]))
  })
  do.call(rbind, rows)
}

results <- list()
for (name in c("cgd", "rhdnase_cf", "ncctg_lung")) {
  cohort <- read_cohort(folder, name)
  table <- person_period(cohort)
  hazard <- tapply(table$y, table$interval, mean)
  table$alpha <- log(-log1p(-hazard))[table$interval]
  null <- glm(y ~ 1, offset = alpha, family = binomial("cloglog"), data = table,
              control = glm.control(epsilon = 1e-14, maxit = 100))
  rao <- sapply(seq_len(ncol(cohort$z)), function(j) {
    table$z <- cohort$z[table$patient, j]
    anova(null, update(null, . ~ . + z), test = "Rao")$Rao[2]
  })
  gridded <- to_grid(cohort)
  cox <- sapply(seq_len(ncol(cohort$z)), function(j) {
    suppressWarnings(coxph(Surv(gridded$time, gridded$event) ~ cohort$z[, j], ties = "breslow"))$score
  })
  results[[length(results) + 1]] <- list(cohort = name, rao = numbers(rao), coxph = numbers(cox))
}
versions <- list(R = R.version.string, survival = as.character(packageVersion("survival")))
cat(json(list(versions = versions, fits = results)), "\n")
