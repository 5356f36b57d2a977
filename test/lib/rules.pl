# The test of the tests: is every rule needed, and every interleaving shown?
#
# usage: rules.pl [FOLDER_OF_TAP_OUTPUT...]   (in the top folder of the tree; default:
# those in COZE_TAP_OUTPUT)
#
# Reads the switches off the sources, the table of doc/interleavings.md, and what the
# tests said, and prints TAP.  A switch without a scenario that passes with it and
# breaks without it fails; so does a line of the table that nothing bears out.

use strict;
use warnings;
use File::Basename qw(basename);
use File::Find;

my @folders = @ARGV ? @ARGV : split /:/, $ENV{COZE_TAP_OUTPUT} // die "no output of tests\n";
my $n = 0;

sub report
{
    my ($ok, $name, $directive) = @_;
    $n++;
    print(($ok ? '' : 'not '), "ok $n - $name", ($directive ? " # $directive" : ''), "\n");
    return $ok;
}

sub lines_of
{
    my ($path) = @_;
    open my $file, '<', $path or die "$path: $!";
    my @lines = <$file>;
    return @lines;
}

# The switches, by name: the file that each is in.
sub switches
{
    my %found;
    find({ no_chdir => 1, wanted => sub {
        return if !/\.[ch]$/;
        for my $line (lines_of($_))
        {
            $found{$1} = $File::Find::name while $line =~ /COZE_RULE\("([^"]+)"\)/g;
        }
    } }, 'src');
    return %found;
}

# What passed in each test: {name of the test}{text of the assertion}.
sub passed
{
    my %passed;
    for my $path (map { glob "$_/*.tap" } @folders)
    {
        my $test = basename($path, '.tap');
        for (lines_of($path))
        {
            # the duration of the test may stand before
            next if /# (TODO|SKIP)/i || !/^(?:\[.*?\] )?ok \d+ - (.*?)\s*$/;
            $passed{$test}{$1} = 1;
        }
    }
    return %passed;
}

my %switches = switches();
my %passed = passed();

# Does a test have a scenario that holds with the rule and breaks without?
sub scenario_of
{
    my ($test, $rule) = @_;
    for my $text (keys %{ $passed{$test} // {} })
    {
        next if $text !~ /^(.*): breaks without the rule \Q$rule\E$/;
        return 1 if $passed{$test}{"$1: holds"};
    }
    return 0;
}

for my $rule (sort keys %switches)
{
    report(scalar(grep { scenario_of($_, $rule) } keys %passed),
        "rule $rule ($switches{$rule}) has a scenario that breaks without it");
}

my %evidence = (
    rule => \&scenario_of,
    model => sub { $passed{ $_[0] }{"without the rule \"$_[1]\" mixed breaks a promise"}
            || grep { /^without the rule "\Q$_[1]\E" \w+ breaks a promise$/ } keys %{ $passed{ $_[0] } // {} } },
    mutant => sub { $passed{ $_[0] }{"found out, if not: $_[1]"} },
    shown => sub { grep { /^\Q$_[1]\E/ } keys %{ $passed{ $_[0] } // {} } },
);

for (lines_of('doc/interleavings.md'))
{
    my ($name, $path, $kind, $what) = /^\| (.*?) \|\s*(\S*)\s*\| (\w+)\s*(.*?) \|$/ or next;
    next if $name eq 'interleaving';
    if ($kind eq 'gap')
    {
        report(0, "shown: $name", 'TODO not shown yet');
        next;
    }
    my ($test) = basename($path);
    my $check = $evidence{$kind} or die "doc/interleavings.md: what is \"$kind\"?\n";
    report(scalar $check->($test, $what), "shown: $name ($path)");
}
print "1..$n\n";
