<#
.SYNOPSIS
    Stops idle virtual machines.
.DESCRIPTION
    Stops every virtual machine of a resource group that was idle for some hours.
    Needs the managed identity of the account.
.PARAMETER ResourceGroupName
    The resource group. All of it, that is.
.PARAMETER Hours
    Hours to look back.
.NOTES
    AUTHOR: somebody
    LASTEDIT: 2024-05-01
#>
#Requires -Modules Az.Accounts, Az.Compute
[CmdletBinding(SupportsShouldProcess)]
param(
    [Parameter(Mandatory = $true, HelpMessage = 'Group')]
    [ValidateNotNullOrEmpty()]
    [string] $ResourceGroupName,

    [ValidateRange(1, 168)]
    [int] $Hours = 12,  # a comment, with a comma and a )

    [Parameter(Mandatory = $false)]
    [ValidateSet('Report', 'Stop')]
    [string] $Mode = 'Report',

    [string[]] $Exclude = @('bastion', "jump"),

    [datetime] $Since = (Get-Date).AddDays(-1),

    [securestring] $WebhookSecret,

    [switch] $Force
)
Connect-AzAccount -Identity | Out-Null
Get-AzVM -ResourceGroupName $ResourceGroupName
