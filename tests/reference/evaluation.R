# Numbers of R for the evaluation of predictions, on invented patients with tied times, tied scores and late entry.
# Run: Rscript tests/reference/evaluation.R > tests/reference/evaluation.json
# Written with R 4.2.2 and survival 3.5-3 (Debian 12); both stand in the output.
suppressPackageStartupMessages(library(survival))
set.seed(20240611)

n <- 90
log_hazard <- round(rnorm(n), 1)
failure <- ceiling(rexp(n, 0.08 * exp(0.7 * log_hazard)))
censoring <- ceiling(runif(n, 3, 30))
time <- pmin(failure, censoring)
event <- as.integer(failure <= censoring)
entry <- ifelse(runif(n) < 0.5, 0, floor(runif(n) * time))
stopifnot(all(entry < time))

number <- function(x) ifelse(is.finite(x), sprintf("%.17g", x), "null")
json <- function(x) {
  if (is.list(x)) {
    paste0("{", paste0("\"", names(x), "\": ", vapply(x, json, ""), collapse = ",\n"), "}")
  } else if (is.matrix(x)) {
    paste0("[", paste(apply(x, 1, function(row) paste0("[", paste(number(row), collapse = ", "), "]")), collapse = ",\n"), "]")
  } else if (is.character(x)) {
    paste0("\"", x, "\"")
  } else if (length(x) == 1) {
    number(x)
  } else {
    paste0("[", paste(number(x), collapse = ", "), "]")
  }
}

# --- Harrell's pairs
pairs <- function(response) {
  count <- concordance(response ~ log_hazard, reverse = TRUE)$count
  c(count[["concordant"]], count[["tied.x"]], sum(count[c("concordant", "discordant", "tied.x")]))
}

# --- Variance of C (infinitesimal jackknife), and Uno's C with its own: weights 1 / G(t-)^2, up to a last time
spread <- function(response, ...) concordance(response ~ log_hazard, reverse = TRUE, ...)$var
until <- quantile(time[event == 1], 0.8)
uno <- concordance(Surv(time, event) ~ log_hazard, reverse = TRUE, timewt = "n/G2", ymax = until)

# --- Cox fit of the log hazard: calibration slope
slope <- function(response, ties) {
  fit <- coxph(response ~ log_hazard, ties = ties, control = coxph.control(eps = 1e-12, toler.chol = 1e-13, iter.max = 50))
  c(coef(fit)[[1]], sqrt(vcov(fit)[1, 1]))
}

# --- Brier score, written out from Graf et al. 1999. Events come before censorings of the same time, so they are
# moved forward a little for the censoring curve (survfit itself would put them after).
censoring_curve <- survfit(Surv(time - 0.25 * event, 1 - event) ~ 1)
G <- stepfun(censoring_curve$time, c(1, censoring_curve$surv), right = FALSE)
survival_at <- function(t) exp(-0.08 * t * exp(0.7 * log_hazard))
brier_at <- function(t) {
  s <- survival_at(t)
  died <- event == 1 & time <= t
  alive <- time > t
  mean(ifelse(died, s^2 / G(time - 0.5), 0) + ifelse(alive, (1 - s)^2 / G(t), 0))
}
times <- seq(quantile(time[event == 1], 0.1), quantile(time[event == 1], 0.8), length.out = 25)
scores <- vapply(times, brier_at, 0)
ibs <- sum(diff(times) * (head(scores, -1) + tail(scores, -1)) / 2) / (max(times) - min(times))

# --- Moved to a common grid: an event to the end of its interval, a censoring to the last edge reached, an entry to
# the next edge. Patients left with no time at all drop out.
edges <- c(2, 4, 7, 11, 16, 22)
up <- function(t) vapply(t, function(one) c(edges, Inf)[sum(edges < one) + 1], 0)
down <- function(t) vapply(t, function(one) c(0, edges)[sum(edges <= one) + 1], 0)
from_zero <- function(t) ifelse(t == 0, 0, up(t))
grid_event <- event == 1 & time <= max(edges)
grid_time <- ifelse(grid_event, up(time), down(time))
grid_entry <- from_zero(entry)
kept <- grid_time > grid_entry
group <- cut(log_hazard, c(-Inf, -0.4, 0.5, Inf), labels = FALSE)

product_limit <- function(which) {
  rows <- data.frame(grid_entry, grid_time, grid_event)[kept & which, ]
  fit <- survfit(Surv(grid_entry, grid_time, grid_event) ~ 1, data = rows, timefix = FALSE)
  summary(fit, times = edges, extend = TRUE)
}
curves <- lapply(1:3, function(g) product_limit(group == g))

# --- Grouped proportional hazards of the log hazard: person-period table, complementary log-log (Prentice & Gloeckler)
rows <- do.call(rbind, lapply(which(kept), function(i) {
  k <- which(edges > grid_entry[i] & edges <= grid_time[i])
  data.frame(k = k, x = log_hazard[i], y = as.integer(grid_event[i] & edges[k] == grid_time[i]))
}))
grouped <- glm(y ~ factor(k) - 1 + x, family = binomial("cloglog"), data = rows,
               control = glm.control(epsilon = 1e-14, maxit = 100))
cat(json(list(
  r_version = R.version.string,
  survival_version = as.character(packageVersion("survival")),
  time = time, event = event, entry = entry, log_hazard = log_hazard,
  pairs = pairs(Surv(time, event)),
  pairs_late_entry = pairs(Surv(entry, time, event)),
  c_variance = spread(Surv(time, event)),
  c_variance_late_entry = spread(Surv(entry, time, event)),
  uno_until = unname(until), uno = unname(uno$concordance), uno_variance = uno$var,
  slope_breslow = slope(Surv(time, event), "breslow"),
  slope_efron = slope(Surv(time, event), "efron"),
  slope_efron_late_entry = slope(Surv(entry, time, event), "efron"),
  brier_times = times, brier = scores, ibs = ibs,
  edges = edges, cutpoints = c(-0.4, 0.5),
  at_risk = t(sapply(curves, function(one) one$n.risk)),
  events = t(sapply(curves, function(one) one$n.event)),
  survival = t(sapply(curves, function(one) one$surv)),
  standard_error = t(sapply(curves, function(one) one$std.err)),
  grouped_slope = c(coef(grouped)[["x"]], sqrt(vcov(grouped)["x", "x"])),
  grouped_alpha = unname(head(coef(grouped), length(edges)))
)))
cat("\n")
