import Foundation

struct Tide: Codable, Equatable {
    let at: Date
    let heightInMetres: Double
    var isHigh: Bool { heightInMetres > 6 }
}

enum ForecastError: Error {
    case empty
    case stale(since: Date)
}

final class Forecast {
    private var tides: [Tide] = []

    init(data: Data) throws {
        tides = try JSONDecoder().decode([Tide].self, from: data)
        guard !tides.isEmpty else { throw ForecastError.empty }
    }

    func next(after now: Date = Date()) -> Tide? {
        return tides.first { $0.at > now }
    }
}

if let path = CommandLine.arguments.dropFirst().first, let data = FileManager.default.contents(atPath: path) {
    let forecast = try Forecast(data: data)
    print(forecast.next()?.heightInMetres ?? .nan)
}
