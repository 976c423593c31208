# Cox fits by survival::coxph. Usage: Rscript coxph.R FOLDER_OF_TABLES > coxph.json (see README.md)
suppressPackageStartupMessages(library(survival))
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
source(file.path(here, "common.R"))
folder <- commandArgs(trailingOnly = TRUE)[1]
control <- coxph.control(eps = 1e-14, toler.chol = 1e-15, iter.max = 100, outer.max = 100, timefix = FALSE)

fit <- function(cohort, ties, penalty, strata, delayed, columns, scale = "model") {
  covariates <- if (scale == "model") cohort$z else cohort$x
  names <- colnames(covariates)[columns]
  data <- data.frame(time = cohort$time, event = cohort$event, entry = cohort$entry, site = cohort$site, covariates)
  if (delayed) data <- data[data$entry < data$time, ]
  response <- if (delayed) "Surv(entry, time, event)" else "Surv(time, event)"
  stratum <- if (strata) " + strata(site)" else ""
  plain <- as.formula(paste0(response, " ~ ", paste(names, collapse = " + "), stratum))
  if (penalty == 0) {
    model <- coxph(plain, data, ties = ties, control = control)
  } else {
    ridged <- paste0("ridge(", paste(names, collapse = ", "), ", theta = ", penalty, ", scale = FALSE)")
    model <- coxph(as.formula(paste0(response, " ~ ", ridged, stratum)), data, ties = ties, control = control)
  }
  beta <- unname(coef(model))
  stopifnot(all(is.finite(beta)))
  # The log-likelihood at beta, without any penalty.
  at_beta <- suppressWarnings(
    coxph(plain, data, ties = ties, init = beta, control = coxph.control(iter.max = 0, timefix = FALSE))
  )
  list(
    coefficients = numbers(beta),
    standard_errors = numbers(sqrt(diag(model$var))),
    log_likelihood = at_beta$loglik[2],
    events = sum(data$event)
  )
}

results <- list()
for (name in c("cgd", "rhdnase_cf", "ncctg_lung", "fed_tcga_brca")) {
  cohort <- read_cohort(folder, name)
  all_columns <- seq_len(ncol(cohort$z))
  kept <- setdiff(all_columns, cohort$dropped)
  cases <- expand.grid(
    ties = c("breslow", "efron"), penalty = c(0, 5), strata = c(FALSE, TRUE), delayed = c(FALSE, TRUE),
    grid = c(FALSE, TRUE), stringsAsFactors = FALSE
  )
  cases$scale <- "model"
  # On the original scale, unpenalised and penalised there (`standardise = false`).
  cases <- rbind(cases, expand.grid(
    ties = "efron", penalty = c(0, 5), strata = FALSE, delayed = FALSE, grid = FALSE, scale = "original",
    stringsAsFactors = FALSE
  ))
  for (i in seq_len(nrow(cases))) {
    case <- as.list(cases[i, ])
    if (case$grid && case$strata) next
    columns <- if (case$penalty == 0) kept else all_columns
    used <- if (case$grid) to_grid(cohort) else cohort
    cat(name, unlist(case), "\n", file = stderr())
    fitted <- fit(used, case$ties, case$penalty, case$strata, case$delayed, columns, case$scale)
    results[[length(results) + 1]] <- c(list(cohort = name), case, fitted)
  }
}
versions <- list(R = R.version.string, survival = as.character(packageVersion("survival")))
cat(json(list(versions = versions, fits = results)), "\n")
