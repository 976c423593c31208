# Predicted curves of Cox fits by survival::survfit. Usage: Rscript survfit.R FOLDER_OF_TABLES > survfit.json
suppressPackageStartupMessages(library(survival))
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
source(file.path(here, "common.R"))
folder <- commandArgs(trailingOnly = TRUE)[1]
control <- coxph.control(eps = 1e-14, toler.chol = 1e-15, iter.max = 100, outer.max = 100, timefix = FALSE)

results <- list()
for (name in c("cgd", "rhdnase_cf", "ncctg_lung")) {
  for (delayed in c(FALSE, TRUE)) {
    cohort <- read_cohort(folder, name)
    data <- data.frame(time = cohort$time, event = cohort$event, entry = cohort$entry, cohort$z)
    if (delayed) data <- data[data$entry < data$time, ]
    names <- colnames(cohort$z)
    response <- if (delayed) "Surv(entry, time, event)" else "Surv(time, event)"
    formula <- as.formula(paste0(response, " ~ ", paste(names, collapse = " + ")))
    model <- coxph(formula, data, ties = "breslow", control = control)
    patients <- rbind(as.data.frame(cohort$z)[1:4, ], setNames(as.data.frame(t(rep(0, length(names)))), names))
    curves <- survfit(model, newdata = patients, conf.int = 0.95, conf.type = "log-log")
    at <- curves$n.event > 0
    for (i in seq_len(nrow(patients))) {
      results[[length(results) + 1]] <- list(
        cohort = name, delayed = delayed, patient = i - 1, time = numbers(curves$time[at]),
        survival = numbers(curves$surv[at, i]), lower = numbers(curves$lower[at, i]),
        upper = numbers(curves$upper[at, i])
      )
    }
  }
}
versions <- list(R = R.version.string, survival = as.character(packageVersion("survival")))
cat(json(list(versions = versions, fits = results)), "\n")
