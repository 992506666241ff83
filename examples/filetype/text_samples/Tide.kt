package org.example.tides

import java.time.Duration
import java.time.Instant

data class Tide(val at: Instant, val heightM: Double, val high: Boolean)

sealed interface Forecast {
    data class Known(val tide: Tide) : Forecast
    object Unknown : Forecast
}

fun List<Tide>.next(now: Instant): Forecast =
    firstOrNull { it.at.isAfter(now) }?.let { Forecast.Known(it) } ?: Forecast.Unknown

fun main() {
    val tides = listOf(Tide(Instant.now().plus(Duration.ofHours(3)), 11.4, true))
    when (val forecast = tides.next(Instant.now())) {
        is Forecast.Known -> println("next: ${forecast.tide.heightM} m")
        Forecast.Unknown -> println("nothing known")
    }
}
