# Outcomes without a time, treatment response and competing events.
# Usage: Rscript endpoints.R FOLDER_OF_TABLES > endpoints.json (see README.md)
library(survival)
library(nnet)
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
source(file.path(here, "common.R"))
folder <- commandArgs(trailingOnly = TRUE)[1]
exact <- coxph.control(eps = 1e-14, toler.chol = 1e-15, iter.max = 50)

# ---- logistic: whether the event was observed, its time put aside
logistic <- function(cohort) {
  data <- data.frame(y = cohort$event, cohort$z[, setdiff(seq_len(ncol(cohort$z)), cohort$dropped), drop = FALSE])
  model <- glm(y ~ ., family = binomial, data = data, control = glm.control(epsilon = 1e-15, maxit = 100))
  model <- suppressWarnings(update(model, start = coef(model), control = glm.control(epsilon = 1e-300, maxit = 3)))
  list(kind = "logistic", cohort = cohort$name, intercept = unname(coef(model)[1]),
       coefficients = numbers(coef(model)[-1]), standard_errors = numbers(sqrt(diag(vcov(model)))[-1]),
       log_likelihood = as.numeric(logLik(model)))
}

# ---- multinomial: a made-up category, 0 without the event, 1 and 2 with it by the parity of the row (also the two
# kinds of event further down).
category <- function(cohort) ifelse(cohort$event == 1, 1 + (seq_along(cohort$event) - 1) %% 2, 0)

multinomial <- function(cohort) {
  kept <- setdiff(seq_len(ncol(cohort$z)), cohort$dropped)
  data <- data.frame(y = factor(category(cohort)), cohort$z[, kept, drop = FALSE])
  model <- multinom(y ~ ., data = data, trace = FALSE, reltol = 1e-18, abstol = 1e-18, maxit = 10000, Hess = TRUE)
  list(kind = "multinomial", cohort = cohort$name, intercepts = numbers(coef(model)[, 1]),
       coefficients = numbers(t(coef(model)[, -1])),
       standard_errors = numbers(t(summary(model)$standard.errors[, -1])),
       log_likelihood = as.numeric(logLik(model)))
}

# ---- treatment: Cox with Breslow's ties is the Poisson model of events at the event times (Whitehead 1980), whose
# covariance holds baseline and coefficients together. The arms' curves are averaged over the patients.
treatment <- function(cohort, column, interaction) {
  t <- cohort$x[, column]
  x <- cohort$x[, interaction]
  centre <- mean(x[t == 1])
  width <- sqrt(mean((x[t == 1] - centre)^2))
  others <- cohort$z[, setdiff(seq_len(ncol(cohort$z)), column), drop = FALSE]
  design <- function(arm) cbind(arm, others, arm * (x - centre) / width)
  times <- sort(unique(cohort$time[cohort$event == 1]))
  rows <- do.call(rbind, lapply(seq_along(times), function(k) {
    who <- which(cohort$time >= times[k])
    data.frame(k = k, i = who, y = as.integer(cohort$time[who] == times[k] & cohort$event[who] == 1))
  }))
  z <- design(t)
  fit <- glm.fit(cbind(outer(rows$k, seq_along(times), "=="), z[rows$i, ]), rows$y, family = poisson(),
                 control = glm.control(epsilon = 1e-14, maxit = 100))
  theta <- fit$coefficients
  covariance <- chol2inv(fit$qr$qr[seq_along(theta), seq_along(theta)])[order(fit$qr$pivot), order(fit$qr$pivot)]
  # The marginal curves and their difference as functions of the parameters; derivatives by the formula.
  k <- length(times)
  curves <- function(arm) {
    hazard <- exp(theta[seq_len(k)])
    za <- design(rep(arm, length(t)))
    ratio <- exp(drop(za %*% theta[-seq_len(k)]))
    lapply(seq_len(k), function(m) {
      H <- sum(hazard[seq_len(m)])
      s <- exp(-H * ratio)
      by_alpha <- -(seq_len(k) <= m) * hazard * mean(ratio * s)
      by_beta <- -colMeans(H * ratio * s * za)
      list(value = mean(s), gradient = c(by_alpha, by_beta))
    })
  }
  control <- curves(0)
  treated <- curves(1)
  value <- function(of) sapply(of, function(one) one$value)
  error <- function(gradients) apply(gradients, 2, function(g) sqrt(drop(g %*% covariance %*% g)))
  g0 <- sapply(control, function(one) one$gradient)
  g1 <- sapply(treated, function(one) one$gradient)
  check <- coxph(Surv(cohort$time, cohort$event) ~ z, ties = "breslow", control = exact)
  stopifnot(max(abs(coef(check) - theta[-seq_len(k)])) < 1e-7)
  list(kind = "treatment", cohort = cohort$name, column = column - 1, interaction = interaction - 1,
       times = numbers(times), coefficients = numbers(coef(check)), control = numbers(value(control)),
       treated = numbers(value(treated)), control_se = numbers(error(g0)), treated_se = numbers(error(g1)),
       difference_se = numbers(error(g1 - g0)))
}

# ---- one covariate alone: each arm's curve is survfit's
arms <- function(cohort, column) {
  t <- cohort$x[, column]
  fit <- coxph(Surv(cohort$time, cohort$event) ~ t, ties = "breslow", control = exact)
  curves <- survfit(fit, newdata = data.frame(t = c(0, 1)), ctype = 1, stype = 2)
  at <- curves$n.event > 0
  list(kind = "arms", cohort = cohort$name, column = column - 1, survival = numbers(t(curves$surv[at, ])),
       standard_error = numbers(t((curves$surv * curves$std.err)[at, ])))
}

# ---- competing events: every second event (by the row) is of the other kind
competing <- function(cohort) {
  cause <- category(cohort)
  state <- factor(cause, 0:2, c("censored", "one", "two"))
  observed <- survfit(Surv(cohort$time, state) ~ 1)
  times <- sort(unique(cohort$time[cause > 0]))
  at <- match(times, observed$time)
  kept <- setdiff(seq_len(ncol(cohort$z)), cohort$dropped)
  z <- cohort$z[, kept, drop = FALSE]
  data <- data.frame(time = cohort$time, state = state, id = seq_along(cause), z)
  model <- as.formula(paste("Surv(time, state) ~", paste(colnames(z), collapse = " + ")))
  fit <- coxph(model, data = data, id = id, ties = "breslow", control = exact)
  curves <- survfit(fit, newdata = data.frame(z)[1:3, , drop = FALSE])
  shown <- match(times, curves$time)
  two <- function(k) coef(coxph(Surv(cohort$time, cause == k) ~ z, ties = "breslow",
                                control = exact))
  list(kind = "competing", cohort = cohort$name, times = numbers(times),
       incidence = numbers(observed$pstate[at, 2:3]), standard_error = numbers(observed$std.err[at, 2:3]),
       coefficients_1 = numbers(two(1)), coefficients_2 = numbers(two(2)),
       predicted = numbers(aperm(curves$pstate[shown, , 2:3], c(1, 3, 2))))
}

results <- list()
add <- function(one) results[[length(results) + 1]] <<- one
for (name in c("cgd", "rhdnase_cf", "ncctg_lung")) {
  cohort <- read_cohort(folder, name)
  add(logistic(cohort))
  add(multinomial(cohort))
}
cgd <- read_cohort(folder, "cgd")
rhdnase <- read_cohort(folder, "rhdnase_cf")
add(treatment(cgd, 1, 3))
add(treatment(rhdnase, 1, 2))
add(arms(cgd, 1))
add(arms(rhdnase, 1))
add(competing(cgd))
add(competing(rhdnase))
cat(json(list(versions = list(R = R.version.string, survival = as.character(packageVersion("survival")),
                              nnet = as.character(packageVersion("nnet"))), fits = results)), "\n")
