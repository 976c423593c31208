# Cumulative incidence of two kinds of event predicted for single patients, with its delta-method interval.
# Usage: Rscript incidence.R FOLDER_OF_TABLES > incidence.json (see README.md)
#
# survival's own multi-state curves (survfit of a coxph with states) have no standard errors in this version, so the
# errors come from the Poisson models of each kind's events at its event times (Whitehead 1980), whose covariance holds
# baseline and coefficients together, and from derivatives by a complex step, which are exact to the last digits.
suppressPackageStartupMessages(library(survival))
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
source(file.path(here, "common.R"))
folder <- commandArgs(trailingOnly = TRUE)[1]
exact <- coxph.control(eps = 1e-14, toler.chol = 1e-15, iter.max = 50)
Z <- qnorm(0.975)

# As in endpoints.R: every second event (by the row) is of the other kind.
category <- function(cohort) ifelse(cohort$event == 1, 1 + (seq_along(cohort$event) - 1) %% 2, 0)

# One kind: log hazards at its event times, then coefficients, with their covariance.
kind_of <- function(cohort, z, happened) {
  times <- sort(unique(cohort$time[happened]))
  rows <- do.call(rbind, lapply(seq_along(times), function(k) {
    who <- which(cohort$time >= times[k])
    data.frame(k = k, i = who, y = as.integer(cohort$time[who] == times[k] & happened[who]))
  }))
  fit <- glm.fit(cbind(outer(rows$k, seq_along(times), "=="), z[rows$i, ]), rows$y, family = poisson(),
                 control = glm.control(epsilon = 1e-14, maxit = 100))
  theta <- fit$coefficients
  covariance <- chol2inv(fit$qr$qr[seq_along(theta), seq_along(theta)])[order(fit$qr$pivot), order(fit$qr$pivot)]
  check <- coxph(Surv(cohort$time, happened) ~ z, ties = "breslow", control = exact)
  stopifnot(max(abs(coef(check) - theta[-seq_along(times)])) < 1e-7)
  list(times = times, theta = theta, covariance = covariance)
}

# F of the first kind (or of the other) at `times`, after `start`, for the covariates z; theta may be complex.
incidence <- function(kinds, thetas, z, times, cause, start = 0) {
  all <- sort(unique(unlist(lapply(kinds, function(one) one$times))))
  all <- all[all > start]
  jumps <- lapply(seq_along(kinds), function(d) {
    k <- seq_along(kinds[[d]]$times)
    h <- exp(thetas[[d]][k]) * exp(sum(thetas[[d]][-k] * z))
    at <- match(all, kinds[[d]]$times)
    ifelse(is.na(at), 0, h[at])
  })
  together <- Reduce(`+`, jumps)
  before <- exp(-c(0, cumsum(together)[-length(together)]))
  added <- cumsum(before * jumps[[cause]] / together * (1 - exp(-together)))
  c(0, added)[1 + findInterval(times, all)]
}

gradients <- function(f, kinds) {
  thetas <- lapply(kinds, function(one) as.complex(one$theta))
  lapply(seq_along(kinds), function(d) sapply(seq_along(thetas[[d]]), function(j) {
    moved <- thetas
    moved[[d]][j] <- moved[[d]][j] + 1e-30i
    Im(f(moved)) / 1e-30
  }))
}

error <- function(f, kinds) {
  g <- gradients(f, kinds)
  sqrt(Reduce(`+`, lapply(seq_along(kinds), function(d) rowSums((g[[d]] %*% kinds[[d]]$covariance) * g[[d]]))))
}

# The complementary log-log scale.
ends <- function(value, se) {
  scaled <- Z * se / ((1 - value) * -log(1 - value))
  ok <- value > 0
  list(lower = ifelse(ok, 1 - (1 - value)^exp(-scaled), 0), upper = ifelse(ok, 1 - (1 - value)^exp(scaled), 0))
}

results <- list()
for (name in c("cgd", "rhdnase_cf")) {
  cohort <- read_cohort(folder, name)
  z <- cohort$z[, setdiff(seq_len(ncol(cohort$z)), cohort$dropped), drop = FALSE]
  cause <- category(cohort)
  kinds <- lapply(1:2, function(k) kind_of(cohort, z, cause == k))
  theta <- lapply(kinds, function(one) one$theta)
  times <- sort(unique(cohort$time[cause > 0]))
  # R's own curves of the same patients, as far as they go.
  data <- data.frame(time = cohort$time, state = factor(cause, 0:2, c("censored", "one", "two")),
                     id = seq_along(cause), z)
  model <- coxph(as.formula(paste("Surv(time, state) ~", paste(colnames(z), collapse = " + "))), data = data, id = id,
                 ties = "breslow", control = exact)
  curves <- survfit(model, newdata = data.frame(z)[1:3, , drop = FALSE])
  patients <- rbind(z[1:3, , drop = FALSE], 0)
  start <- times[length(times) %/% 3]
  later <- times[times > start]
  for (i in 1:4) {
    one <- list(cohort = name, patient = i - 1, times = numbers(times), start = start, later = numbers(later - start))
    for (k in 1:2) {
      value <- incidence(kinds, theta, patients[i, ], times, k)
      if (i < 4) stopifnot(max(abs(value - curves$pstate[match(times, curves$time), i, k + 1])) < 1e-8)
      se <- error(function(moved) incidence(kinds, moved, patients[i, ], times, k), kinds)
      found <- c(list(value = value), ends(value, se))
      one[paste(names(found), k, sep = "_")] <- lapply(found, numbers)
    }
    value <- incidence(kinds, theta, patients[i, ], later, 1, start)
    se <- error(function(moved) incidence(kinds, moved, patients[i, ], later, 1, start), kinds)
    found <- c(list(value = value), ends(value, se))
    one[paste("conditional", names(found), sep = "_")] <- lapply(found, numbers)
    # The first covariate is the treatment: the same patient with and without it.
    arm <- function(t) replace(patients[i, ], 1, (t - mean(cohort$x[, 1])) / sqrt(mean((cohort$x[, 1] - mean(cohort$x[, 1]))^2)))
    between <- function(moved) {
      incidence(kinds, moved, arm(1), times, 1) - incidence(kinds, moved, arm(0), times, 1)
    }
    one$difference <- numbers(between(theta))
    one$difference_se <- numbers(error(between, kinds))
    results[[length(results) + 1]] <- one
  }
}
versions <- list(R = R.version.string, survival = as.character(packageVersion("survival")))
cat(json(list(versions = versions, fits = results)), "\n")
