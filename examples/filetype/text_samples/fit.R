library(stats)

readings <- read.csv("readings.csv", stringsAsFactors = FALSE)
readings$at <- as.POSIXct(readings$at, tz = "UTC")
readings <- subset(readings, !is.na(level_m) & level_m > 0)

fit <- lm(level_m ~ sin(2 * pi * hour / 12.42) + cos(2 * pi * hour / 12.42), data = readings)
summary(fit)

by_station <- aggregate(level_m ~ station, data = readings, FUN = function(x) c(mean = mean(x), sd = sd(x)))
print(by_station)

for (name in unique(readings$station)) {
  part <- readings[readings$station == name, ]
  cat(sprintf("%s: %d readings\n", name, nrow(part)))
}

plot(readings$at, readings$level_m, type = "l", xlab = "time", ylab = "level (m)")
lines(readings$at, predict(fit), col = "red")
