package org.example.tides

import scala.util.{Failure, Success, Try}

final case class Tide(hour: Int, height: Double)

object Tide {
  def parse(line: String): Try[Tide] = Try {
    line.split(",").map(_.trim) match {
      case Array(hour, height) => Tide(hour.toInt, height.toDouble)
      case _ => throw new IllegalArgumentException(s"not a tide: $line")
    }
  }
}

object Main extends App {
  val tides = List("6, 11.4", "13, 1.9", "x").map(Tide.parse)
  tides.zipWithIndex.foreach {
    case (Success(tide), _) => println(f"${tide.hour}%02d h: ${tide.height}%.1f m")
    case (Failure(error), index) => Console.err.println(s"$index: ${error.getMessage}")
  }
  implicit val ordering: Ordering[Tide] = Ordering.by(_.height)
  println(tides.collect { case Success(tide) => tide }.max)
}
