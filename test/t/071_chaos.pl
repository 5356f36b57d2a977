# One round of the chaos test (test/chaos/round.pl), the same one each time; `make chaos`
# runs as many others as you like.

use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Cluster;

# tables under policies are for `make chaos`, until many rounds have shown them
$ENV{POLICIES} //= 0;
$ENV{SEED} ||= 4;
$ENV{CHAOS_SECONDS} ||= 90;
do "$FindBin::RealBin/../chaos/round.pl" or die $@ || $!;
