#!/usr/bin/perl
use strict;
use warnings;

my %highest;
while (my $line = <STDIN>) {
    chomp $line;
    next if $line =~ /^\s*(#|$)/;
    my ($station, $at, $level) = split /\s*,\s*/, $line, 3;
    unless (defined $level && $level =~ /^-?\d+(\.\d+)?$/) {
        warn "line $.: no level\n";
        next;
    }
    if (!exists $highest{$station} || $highest{$station}->{level} < $level) {
        $highest{$station} = { at => $at, level => $level };
    }
}

foreach my $station (sort { $highest{$b}{level} <=> $highest{$a}{level} } keys %highest) {
    printf "%-12s %6.2f m at %s\n", $station, @{ $highest{$station} }{qw(level at)};
}
