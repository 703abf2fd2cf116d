# .SYNOPSIS
#   Rotates the keys of a storage account.
param
(
    [parameter(Mandatory)] [String] $AccountName,
    [PSCredential] $Credential,
    [object] $WebhookData
)
$subscription = Get-AutomationVariable -Name 'SubscriptionId'
New-AzStorageAccountKey -Name $AccountName
