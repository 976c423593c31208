# A Cox model of every second patient of cgd, corrected to the others: slope by coxph, level by glm(poisson), and the variance of log H
# by refitting both for each coefficient and each baseline hazard moved a little (central differences). Usage:
# Rscript recalibration.R FOLDER_OF_TABLES > recalibration.json
suppressPackageStartupMessages(library(survival))
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
source(file.path(here, "common.R"))
folder <- commandArgs(trailingOnly = TRUE)[1]
control <- coxph.control(eps = 1e-14, toler.chol = 1e-15, iter.max = 100, outer.max = 100, timefix = FALSE)
HORIZON <- 300
TIMES <- c(100, 200, 300)

cohort <- read_cohort(folder, "cgd")
columns <- c(1, 3, 6)
x <- cohort$z[, columns]
trains <- seq_along(cohort$time) %% 2 == 0
train <- data.frame(time = cohort$time[trains], event = cohort$event[trains])
own <- data.frame(time = cohort$time[!trains], event = cohort$event[!trains])
x_train <- x[trains, ]
x_own <- x[!trains, ]

model <- coxph(Surv(time, event) ~ x_train, train, ties = "breslow", control = control)
beta <- unname(coef(model))
covariance <- unname(vcov(model))
times <- sort(unique(train$time[train$event == 1]))
risk <- exp(drop(x_train %*% beta))
s0 <- sapply(times, function(t) sum(risk[train$time >= t]))
deaths <- sapply(times, function(t) sum(train$event[train$time == t]))
xbar <- t(sapply(times, function(t) colSums((risk * x_train)[train$time >= t, , drop = FALSE]))) / s0
hazard <- deaths / s0
alone <- deaths / s0^2
give <- -hazard * xbar

corrected <- function(hazard, beta) {
  eta <- drop(x_own %*% beta)
  slope <- coxph(Surv(time, event) ~ eta, cbind(own, eta = eta), ties = "efron", control = control)
  b <- unname(coef(slope))
  exposed <- sapply(own$time, function(t) sum(hazard[times <= min(t, HORIZON)]))
  had <- own$event == 1 & own$time <= HORIZON
  seen <- exposed > 0
  stopifnot(!any(had & !seen))
  level <- glm(had[seen] ~ 1 + offset(log(exposed) + b * eta)[seen], family = poisson(),
               control = glm.control(epsilon = 1e-14, maxit = 100))
  list(b = b, a = unname(coef(level)), b_variance = unname(drop(vcov(slope))), a_variance = unname(drop(vcov(level))),
       weights = exposed * exp(b * eta), eta = eta)
}

found <- corrected(hazard, beta)
log_hazard <- function(hazard, beta, row, time) {
  now <- corrected(hazard, beta)
  now$a + now$b * sum(row * beta) + log(sum(hazard[times <= time]))
}
central <- function(f, size, step) {
  sapply(seq_len(size), function(j) {
    unit <- as.numeric(seq_len(size) == j) * step[j]
    (f(unit) - f(-unit)) / (2 * step[j])
  })
}

results <- list()
for (i in c(2, 6, 11)) {
  row <- x[i, ]
  for (time in TIMES) {
    by_hazard <- central(function(u) log_hazard(hazard + u, beta, row, time), length(hazard), 1e-4 * hazard)
    by_beta <- central(function(u) log_hazard(hazard + drop(give %*% u), beta + u, row, time), 3, rep(1e-4, 3))
    away <- sum(row * beta) - sum(found$weights * found$eta) / sum(found$weights)
    model_part <- sum(by_hazard^2 * alone) + drop(by_beta %*% covariance %*% by_beta)
    variance <- model_part + away^2 * found$b_variance + found$a_variance
    centre <- log_hazard(hazard, beta, row, time)
    reach <- qnorm(0.975) * sqrt(variance)
    results[[length(results) + 1]] <- list(
      patient = i - 1, time = time, survival = exp(-exp(centre)), lower = exp(-exp(centre + reach)),
      upper = exp(-exp(centre - reach))
    )
  }
}
versions <- list(R = R.version.string, survival = as.character(packageVersion("survival")))
cat(json(list(versions = versions, slope = found$b, slope_variance = found$b_variance, level = found$a,
              level_variance = found$a_variance, horizon = HORIZON, columns = numbers(columns - 1), fits = results)), "\n")
