# frozen_string_literal: true

require "date"
require "json"

module Tides
  Entry = Struct.new(:date, :height, keyword_init: true)

  class Ledger
    include Enumerable

    attr_reader :entries

    def initialize(entries = [])
      @entries = entries
    end

    def self.load(path)
      new(JSON.parse(File.read(path), symbolize_names: true).map { |row| Entry.new(**row) })
    end

    def each(&block)
      entries.each(&block)
    end

    def highest
      max_by(&:height) or raise ArgumentError, "no entries"
    end
  end
end

if $PROGRAM_NAME == __FILE__
  ledger = Tides::Ledger.load(ARGV.fetch(0))
  puts "highest: #{ledger.highest.height} m on #{ledger.highest.date}"
end
